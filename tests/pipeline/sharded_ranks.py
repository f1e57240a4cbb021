"""One of several processes that share the features of every layer: started by the tests, each in a process of its own.

Arguments: rank, number of ranks, folder to meet and to write in, cases, and "kill" for an end with the first rank.
"""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

NUM_CLASSES = 7
BATCHES = 9
WIDE = 300
KILLED_IN = 5
"""Batch of the killed rank."""


def build() -> nn.Module:
    """The same weights everywhere, in float64, so that batches of other sizes give the same features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, WIDE), nn.Tanh(), nn.Linear(WIDE, NUM_CLASSES)).double()


def odd() -> nn.Module:
    """A layer of which one process has 128 features, which are kept in float64, and the other 129."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Linear(6, 257)


def _fill(layer: nn.Module) -> None:
    """Weights that need no random numbers."""
    for parameter in layer.parameters():
        parameter.fill_(0.5)


class Tokens(nn.Module):
    """Two layers on tokens, and one on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(NUM_CLASSES, 131), nn.Linear(131, 5), nn.Linear(5, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.mix(self.embed(input_ids)))


def tokens() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Tokens().double()


def batches(*, bad: bool = False) -> list[Any]:
    """Inputs with labels; the last class comes late."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for index in range(BATCHES):
        labels = torch.randint(NUM_CLASSES - 1, (8,), generator=generator)
        if index == BATCHES - 1:
            labels[0] = NUM_CLASSES - 1
        inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64) + labels.unsqueeze(1)
        if bad and index % 2:
            inputs[index % 8] = torch.nan
        found.append((inputs, labels))
    return found


def sentences() -> list[Any]:
    """Padded sequences, one batch of padding only but for its first position."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for index in range(BATCHES):
        ids = torch.randint(NUM_CLASSES, (4, 6), generator=generator)
        lengths = torch.tensor([6, 3, 5, 4]) if index != 1 else torch.ones(4, dtype=torch.int64)
        found.append({"input_ids": ids, "attention_mask": (torch.arange(6) < lengths.unsqueeze(1)).long()})
    return found


def case_of(name: str) -> tuple[nn.Module, list[Any], dict[str, Any]]:
    """Model, batches of all ranks, and options."""
    import neurocollapse as nc

    plain: dict[str, Any] = {"layers": "linear", "progress": False}
    cases: dict[str, tuple[nn.Module, list[Any], dict[str, Any]]] = {
        "uneven": (build(), batches(), plain),
        "none": (build(), batches(), plain),
        "first has none": (build(), batches(), plain),
        "readers": (build(), batches(), {"layers": "penultimate", "progress": False, "num_classes": NUM_CLASSES}),
        "narrow": (nn.Linear(6, 1).double().requires_grad_(False).apply(_fill), batches(), plain),
        "skip": (build(), batches(bad=True), plain | {"non_finite": "skip"}),
        "tokens": (
            tokens(),
            sentences(),
            {"layers": ["embed", "mix"], "label_fn": nc.labels.next_token(), "progress": False},
        ),
        "single": (build().float(), [(inputs.float(), labels) for inputs, labels in batches()], plain),
        "odd": (odd().float(), [(inputs.float(), labels) for inputs, labels in batches()], plain),
        "killed": (build(), batches(), plain),
        "bad": (build(), batches(bad=True), plain),
    }
    return cases[name]


def share_of(name: str, rank: int, world_size: int) -> slice:
    """The first rank has most of the batches, the last one few."""
    first = {"none": BATCHES, "first has none": 0}.get(name, BATCHES - 2)
    return slice(first) if rank == 0 else slice(first + (rank - 1), BATCHES if rank == world_size - 1 else first + rank)


class Deadly:
    """A list of batches whose process is killed before one of them."""

    def __init__(self, batches: list[Any], last: int) -> None:
        self.batches, self.last = batches, last

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(self.batches):
            if index == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def main(rank: int, world_size: int, folder: Path, names: list[str], *, kill: bool) -> None:
    """Run some cases; every rank writes its results."""
    import neurocollapse as nc
    from neurocollapse.passes import checkpoint

    checkpoint.SAVE_INTERVAL, checkpoint.SAVE_SHARE = 0.0, 1e9  # after every batch
    warnings.simplefilter("ignore", nc.SampleWarning)
    warnings.simplefilter("ignore", nc.PrecisionWarning)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet-{names[0]}-{kill}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),
    )
    for name in names:
        model, loader, options = case_of(name)
        loader = loader[share_of(name, rank, world_size)]
        options = options | {"distributed": "shard", "resume": folder / f"{name}.state"}
        dataset = nc.analyze(model, Deadly(loader, KILLED_IN) if kill and rank == 0 else loader, **options)
        nc.save(dataset, folder / f"{name}.{rank}.nc")
        nc.collect(model, loader, **options).save(folder / f"{name}.{rank}.moments")  # from the file
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(","), kill=sys.argv[5:] == ["kill"])
