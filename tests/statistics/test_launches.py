"""What a layer asks of a device a batch: few operations, whatever its width, and no answer.

The meta device stands for a GPU: it computes nothing, and raises where a number would have to be read back. What one
operation of torch launches on CUDA beside its own kernel is counted too: a sum of float32 in float64 copies its input.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neurocollapse.statistics import ClassBatch, MomentAccumulator, adoption, sorted_rows
from neurocollapse.statistics.accumulator import COMPACT_COUNT
from neurocollapse.statistics.kernel_choice import VARIABLE
from neurocollapse.statistics.kernels import at_once
from neurocollapse.statistics.ledger import FLUSH_COUNT
from tests.readbacks import Kept

META = torch.device("meta")
MOST = 8
"""Launches of one layer in an ordinary batch: no class is new, and no reference is looked at."""
FREE = {
    *(
        "view",
        "as_strided",
        "slice",
        "select",
        "t",
        "transpose",
        "unsqueeze",
        "expand",
        "unbind",
        "split",
        "split_with_sizes",
    ),
    *("detach", "alias", "empty", "new_empty", "empty_like", "empty_strided"),
}
"""Operations that launch nothing."""


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the device, whatever the CPU's is and the environment says."""
    monkeypatch.delenv(VARIABLE, raising=False)


class Launches(TorchDispatchMode):
    """The operations on the meta device inside, by name, and the tensors of the CPU that were copied there."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.num_sent = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        name = func.overloadpacket.__name__
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        if name == "_to_copy" and result.is_meta and not given[0].is_meta:
            self.num_sent += 1
        elif name not in FREE and any(part.is_meta for part in given):
            self.names += [name] * (1 + is_cast_first(name, given, kwargs or {}))
        return result


def is_cast_first(name: str, given: list[Tensor], kwargs: dict[str, Any]) -> bool:
    """Whether CUDA would make a copy in another dtype before a reduction."""
    return name in ("linalg_vector_norm", "sum", "mean") and kwargs.get("dtype") not in (None, given[0].dtype)


def labels_of(num_batches: int, num_samples: int, num_classes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(num_classes, (num_samples,), generator=generator) for _ in range(num_batches)]


def ordinary(num_features: int, *, num_classes: int = 10, num_samples: int = 256, **options: Any) -> list[list[str]]:
    """The launches of the second of two layers, in those of thirty batches that are ordinary."""
    layers = [MomentAccumulator(num_classes, num_features, device=META, **options) for _ in range(2)]
    dtype = options.get("dtype", torch.float32)
    found = []
    for labels in labels_of(30, num_samples, num_classes):
        batch = ClassBatch(labels, num_classes)
        step = layers[0].ledger.step(batch)
        layers[0].update(torch.empty(num_samples, num_features, dtype=dtype, device=META), batch)
        with Launches() as counted:
            layers[1].update(torch.empty(num_samples, num_features, dtype=dtype, device=META), batch)
        if step.new is None and step.due is None:
            assert counted.num_sent == 0  # the first layer has sent what there is to send
            found.append(counted.names)
    assert found
    return found


# pooled, a perceptron's; ResNet-50 at 224 pixels: its stem and its first blocks, which are its largest
@pytest.mark.parametrize(
    ("num_features", "num_classes"),
    [(64, 10), (784, 10), (1000, 10), (200_704, 10), (802_816, 10), (512, 1000), (2048, 1000), (802_816, 1000)],
)
def test_an_ordinary_batch_takes_at_most_eight_launches_at_any_width(num_features: int, num_classes: int) -> None:
    for names in ordinary(num_features, num_classes=num_classes):
        assert len(names) <= MOST, names


@pytest.mark.parametrize(
    ("num_features", "num_samples", "options"),
    [
        (8192, 256, {"precision": "double"}),
        (1009, 256, {}),
        (2048, 4096, {}),
        (1009, 4096, {}),
        (8192, 4096, {"precision": "double"}),
        (2048, 4096, {"state_bytes": 8}),
    ],
    ids=["double", "no equal blocks", "many of a class", "both", "many in double", "8 bytes"],
)
def test_no_precision_width_or_number_of_samples_takes_more(
    num_features: int, num_samples: int, options: dict[str, Any]
) -> None:
    assert max(map(len, ordinary(num_features, num_samples=num_samples, **options))) <= MOST
    assert torch.bincount(labels_of(1, 4096, 10)[0]).max() > FLUSH_COUNT  # what "many" is


KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "double": {"precision": "double"},
    "float64 features": {"dtype": torch.float64},
    "8 bytes": {"state_bytes": 8},
}
ABOVE = {
    ("float64 features", "few classes", 1030, True): 9,  # finite numbers are told apart, and bags summed, on their own
    ("8 bytes", "few classes", 1, True): 9,  # totals and squares have no matrix in common
    ("8 bytes", "few classes", 100, True): 9,
    ("8 bytes", "few classes", 1030, True): 9,
    ("8 bytes", "all classes", 1030, True): 9,  # in parts, in which few occur
}
"""The batches that take more: the kind of state, how many of its classes occur and how often, and what is left out."""


@pytest.mark.parametrize("num_features", [768, 1009])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("occur", ["all classes", "few classes"])
@pytest.mark.parametrize(
    "repeats", [1, 100, 1030]
)  # in one bag; in several; in several even where samples are left out
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
def test_rare_batches_take_no_more_but_for_these(
    num_features: int, kind: str, occur: str, repeats: int, skips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "Readback", Kept)
    num_classes, options = 20 if occur == "all classes" else 50_000, KINDS[kind]
    layer = MomentAccumulator(num_classes, num_features, device=META, skip_non_finite=skips, **options)
    layer._rebase = lambda *arguments: None  # type: ignore[method-assign]
    for labels in [torch.arange(20).repeat_interleave(repeats)] * 3:  # from the second time on none is new
        batch = ClassBatch(labels, num_classes)
        batch.on(META)
        for most in (FLUSH_COUNT, sorted_rows.MOST_IN_TURN):
            batch.bags(META, most)
        with Launches() as counted:
            features = torch.empty(len(labels), num_features, dtype=options.get("dtype", torch.float32), device=META)
            layer.update(features, batch)
    above = ABOVE.get((kind, occur, repeats, skips))
    parts = -(-len(labels) // COMPACT_COUNT) if kind == "8 bytes" and repeats > COMPACT_COUNT else 1
    number = len(counted.names) / parts
    assert number == above if above else number <= MOST, counted.names
    if skips and kind == "default":
        assert len(counted.names) < MOST or (occur == "few classes" and repeats > sorted_rows.MOST_IN_TURN)


@pytest.mark.parametrize("num_features", [64, 1009, 2048, 802_816])
@pytest.mark.parametrize("num_samples", [256, 4096, 20_000])  # of ten classes: one bag for each, or several
@pytest.mark.parametrize("precision", ["single", "double"])
def test_leaving_out_samples_takes_no_more(
    num_features: int, num_samples: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "Readback", Kept)
    found = ordinary(num_features, num_samples=num_samples, precision=precision, skip_non_finite=True)
    parts = -(-num_features * num_samples // at_once(META).rows)
    assert max(map(len, found)) <= MOST * parts


def test_more_classes_take_few_launches_once() -> None:
    layer = MomentAccumulator(10, 2048, device=META)
    counts = []
    for index, labels in enumerate(labels_of(24, 256, 10)):
        num_classes = 10 + index // 6
        batch = ClassBatch(labels, num_classes)
        batch.on(META)
        batch.bags(META, FLUSH_COUNT)
        step = layer.ledger.grown(num_classes).step(batch)
        with Launches() as counted:
            if layer.num_classes < num_classes:
                layer.grow(num_classes)
            layer.update(torch.empty(256, 2048, device=META), batch)
        if step.due is None:
            counts.append((len(counted.names), index % 6 == 0))
    grown = [count for count, has_grown in counts if has_grown][1:]
    assert len(grown) > 1
    assert max(grown) <= MOST + 8
    assert max(count for count, has_grown in counts if not has_grown) <= MOST


def test_looking_at_references_takes_the_same_launches_at_any_width() -> None:
    numbers = []
    for num_features in (2048, 802_816):
        layer = MomentAccumulator(10, num_features, device=META)
        with Launches() as counted:
            for labels in labels_of(30, 256, 10):
                layer.update(torch.empty(256, num_features, device=META), ClassBatch(labels, 10))
        numbers.append(len(counted.names))
    assert numbers[1] <= numbers[0] + 30  # the first samples of ten classes may come in parts


def test_only_what_would_take_too_much_memory_is_added_in_parts() -> None:
    width = 2 * at_once(META).rows // 256
    assert {len(names) for names in ordinary(width)} == {2 * MOST}
    assert {len(names) for names in ordinary(width // 2)} == {MOST}


class Launched:
    """Stands for a kernel of Triton: counts how often it is launched, and computes nothing."""

    def __init__(self, name: str, names: list[str]) -> None:
        self.name, self.names = name, names

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        assert 0 < grid[0] < 2**31  # what CUDA allows
        return lambda *arguments, **options: self.names.append(self.name)


@pytest.mark.parametrize(
    ("num_samples", "num_classes", "num_features"),
    [(256, 10, 64), (4096, 10, 1009), (20_000, 10, 2048), (256, 1000, 802_816), (40_000, 50_000, 4096)],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"state_bytes": 8}, {"precision": "double"}, {"dtype": torch.float64}, {"dtype": torch.float16}],
    ids=str,
)
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
def test_with_triton_no_batch_takes_more_than_five(
    num_samples: int,
    num_classes: int,
    num_features: int,
    options: dict[str, Any],
    skips: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused_rows = pytest.importorskip("neurocollapse.statistics.fused_rows", reason="there is Triton for Linux alone")
    names: list[str] = []
    for name in ("find_finite", "add_bags", "add_parts", "add_squares"):
        monkeypatch.setattr(fused_rows, name, Launched(name, names))
    layer = MomentAccumulator(num_classes, num_features, device=META, skip_non_finite=skips, **options)
    features = torch.empty(num_samples, num_features, dtype=options.get("dtype", torch.float32), device=META)
    batch = ClassBatch(labels_of(1, num_samples, num_classes)[0], num_classes)
    with Launches() as counted:
        fused_rows.add_rows(features, batch, layer.sums, settle=False, keep_shifted=False)
    several = batch.largest > fused_rows.MOST_IN_TURN
    assert names == ["find_finite"] * skips + ["add_bags"] + ["add_parts"] * several + ["add_squares"]
    assert not counted.names  # nothing beside them, but for the ones of `find_finite`
    assert len(names) + skips <= 5
