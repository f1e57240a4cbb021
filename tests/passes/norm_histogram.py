"""A sink as a user writes one, and a run of it slow enough to be killed: started by the tests in a process of its own.

Arguments: resume file, seconds per batch. Prints a line before every batch, and what came out at the end.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.passes import Sink, run_pass
from neurocollapse.statistics import ClassBatch

NUM_BATCHES = 24


class NormHistogram(Sink):
    """How many features of each layer have a norm in each bin."""

    def __init__(self, bins: int = 8, largest: float = 10.0) -> None:
        self.settings = {"bins": bins, "largest": largest}
        self.counts: dict[str, Tensor] = {}

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        counts = torch.histc(features.norm(dim=1), self.settings["bins"], max=self.settings["largest"])
        self.counts[site] = self.counts.get(site, 0) + counts

    def state(self) -> Mapping[str, Tensor]:
        return self.counts

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.counts = {site: counts.to(self.device) for site, counts in tensors.items()}

    def result(self) -> dict[str, list[float]]:
        return {record.name: self.counts[site].tolist() for site, record in self.layers.items()}


def build(seconds: float = 0.0) -> nn.Module:
    """The same weights in every process, and a module that is called twice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        act = nn.Tanh()
        model = nn.Sequential(nn.Linear(5, 12), act, nn.Dropout(), nn.Linear(12, 30), act)
    model[3].register_forward_pre_hook(lambda module, args: time.sleep(seconds))
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    """Normal inputs of three classes."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(3, (NUM_BATCHES, 13), generator=generator)
    return [(2 * torch.randn(13, 5, generator=generator), part) for part in labels]


def main(resume: str, seconds: float) -> None:
    """Run the sink, saving after every batch."""
    from neurocollapse.passes import checkpoint as saving

    saving.SAVE_INTERVAL, saving.SAVE_SHARE = 0.0, float("inf")
    model = build(seconds)
    model[0].register_forward_pre_hook(lambda module, args: print("batch", flush=True))
    options: dict[str, Any] = {"mode": "train", "progress": False}  # dropout draws random numbers
    torch.manual_seed(7)
    print(run_pass(model, batches(), {"norms": NormHistogram()}, resume=resume, **options)["norms"])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
