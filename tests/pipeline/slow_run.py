"""A run slow enough to be killed: started by the tests of resuming, in a process of its own.

Arguments: resume file, result file, seconds per batch. Prints a line before every batch.
"""

import sys
import time

import torch
from torch import Tensor, nn

NUM_BATCHES = 24
OPTIONS = {"covariance": True, "include_input": True, "progress": False}


class Slow(nn.Module):
    """Narrow and wide layers, one of them called twice; sleeps between them."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.narrow, self.norm, self.wide = nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Linear(12, 150)
        self.act, self.head = nn.Tanh(), nn.Linear(150, 4)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.narrow(x)))
        time.sleep(self.seconds)
        return self.head(self.act(self.wide(hidden)))


def build(seconds: float = 0.0) -> Slow:
    """The same weights in every process, and a mode for each module."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Slow(seconds)
    model.norm.eval()
    return model


def batches(num_batches: int = NUM_BATCHES) -> list[tuple[Tensor, Tensor]]:
    """Batches in which classes turn up late, far from the origin so that references move."""
    generator = torch.Generator().manual_seed(4)
    loader = []
    for index in range(num_batches):
        labels = torch.randint(min(4, 1 + index // 3), (13,), generator=generator)
        loader.append((3.0 * labels.unsqueeze(1) + torch.randn(13, 5, generator=generator), labels))
    return loader


def main(resume: str, result: str, seconds: float) -> None:
    """Collect, saving after every batch; report the model's state where Ctrl-C ends it."""
    import neurocollapse as nc
    from neurocollapse.passes import checkpoint as saving

    saving.SAVE_INTERVAL, saving.SAVE_SHARE = 0.0, float("inf")
    model, random_state = build(seconds), torch.get_rng_state()
    model.narrow.register_forward_pre_hook(lambda module, args: print("batch", flush=True))
    try:
        nc.collect(model, batches(), resume=resume, **OPTIONS).save(result)
    except KeyboardInterrupt:
        hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
        modes = [part.training for part in model.modules()] == [part.training for part in build().modules()]
        print("interrupted", hooks - 1, modes, torch.equal(torch.get_rng_state(), random_state), flush=True)
        raise


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
