"""An analysis of two passes, slow enough to be killed: started by the tests in a process of its own.

Arguments: resume file, result file, seconds per batch. Prints a line before every batch.
"""

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import Layer, Quantity, Rows

NUM_BATCHES = 12


def third_moment(layer: Layer, rows: Rows) -> Tensor:
    """Σ(z − μ_k)³ of each feature."""
    return (rows.features - layer.moments.mean[rows.labels]).pow(3).sum(dim=0)


OPTIONS: dict[str, Any] = {
    "quantities": [Quantity(name="skew", of=lambda layer: layer.total(third_moment).sum(), gather=third_moment)],
    "probes": True,
    "uncertainty": True,
    "probe_samples": 100,
    "progress": False,
}


def build(seconds: float = 0.0) -> nn.Module:
    """The same weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 4))
    model[1].register_forward_pre_hook(lambda module, args: time.sleep(seconds))
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    """Normal inputs of three classes."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(3, (NUM_BATCHES, 13), generator=generator)
    return [(part.unsqueeze(1) + torch.randn(13, 5, generator=generator), part) for part in labels]


def main(resume: str, result: str, seconds: float) -> None:
    """Analyze, saving after every batch."""
    from neurocollapse.passes import checkpoint as saving

    saving.SAVE_INTERVAL, saving.SAVE_SHARE = 0.0, float("inf")
    model = build(seconds)
    model[0].register_forward_pre_hook(lambda module, args: print("batch", flush=True))
    nc.save(nc.analyze(model, batches(), resume=resume, **OPTIONS), result)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
