"""What a layer asks of a device a batch: few operations, whatever its width, and no answer.

The meta device stands for a GPU: it computes nothing, and raises where a number would have to be read back.
"""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from neurocollapse.statistics import ClassBatch, MomentAccumulator

MOST = 8
"""Operations of one layer and batch."""
FLUSH = 2
"""Operations that bring float32 sums to the float64 totals, before some batches."""
FREE = {"as_strided", "view", "slice", "t", "transpose", "detach", "empty", "new_empty", "alias", "unsqueeze", "expand"}
"""Operations that launch nothing."""


@pytest.fixture(autouse=True)
def kernel() -> None:
    """The compiled kernel has no part in this."""


class Launches(TorchDispatchMode):
    """The operations on the meta device inside, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        parts = [*args, *(kwargs or {}).values(), result]
        if name not in FREE and any(isinstance(part, torch.Tensor) and part.is_meta for part in parts):
            self.names.append(name)
        return result


def launches(num_features: int, **options: Any) -> list[list[str]]:
    """The launches of each of twelve batches of 256 samples."""
    generator = torch.Generator().manual_seed(0)
    accumulator, found = MomentAccumulator(10, num_features, device="meta", **options), []
    for _ in range(12):
        batch = ClassBatch(torch.randint(10, (256,), generator=generator), 10)
        batch.on(torch.device("meta"))  # copied once for all layers
        with Launches() as counted:
            accumulator.update(torch.empty(256, num_features, device="meta"), batch)
        found.append(counted.names)
    return found


@pytest.mark.parametrize("num_features", [64, 8192, 200_704])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_an_ordinary_batch_takes_few_launches_at_any_width(num_features: int, precision: str) -> None:
    counts = sorted(map(len, launches(num_features, precision=precision)))
    assert counts[0] <= MOST
    assert counts[len(counts) // 2] <= MOST + FLUSH
