"""Triton's kernels give what torch's operations give, and compile for GPUs.

Triton's interpreter runs them here, on the CPU; Triton's compiler makes machine code of them, which only a GPU can run.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.statistics import ClassBatch, ClassMoments, MomentAccumulator, kernel_on, kernels
from neurocollapse.statistics.sums import Sums
from tests.features import LAYOUTS, laid_out, random_labels

tl = pytest.importorskip("triton.language", reason="there is Triton for Linux alone")
fused_rows = pytest.importorskip("neurocollapse.statistics.fused_rows")

SINGLE, DOUBLE = 1e-7, 1e-12  # float32 and float64 roundings of sums in another order
Stream = Callable[..., MomentAccumulator]
Relative = Callable[[Any, Any], float]


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels, also on the CPU."""
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "triton")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("num_rows", "width"), [(1, 1), (1, 128), (9, 129), (40, 7), (17, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
def test_any_shape_stride_and_dtype_is_added_up_alike(
    layout: str, num_rows: int, width: int, dtype: torch.dtype, skips: bool
) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    features, labels = torch.randn(num_rows, width, generator=generator).to(dtype), random_labels(num_rows, 3)
    if skips:
        features[::3, width // 2] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)[num_rows % 3]
    found = []
    for add_rows in (kernels.add_rows, fused_rows.add_rows):
        reference = torch.randn(5, width, generator=generator.manual_seed(1)).to(dtype)
        matrix = torch.ones(5, width + 1 + skips, dtype=torch.float64)
        sums = Sums.over(reference, (matrix,))
        batch = ClassBatch(labels, 5)
        _, shifted = add_rows(laid_out(features, layout), batch, sums, settle=True, keep_shifted=True)
        assert shifted is not None
        found.append((matrix, shifted.clone()))
    (expected, expected_rows), (matrix, rows) = found
    assert torch.equal(rows, expected_rows)
    # 17 rows, whose squared norms about 600 are float32 on one side
    tolerance = 1e-6 if dtype == torch.float32 else DOUBLE
    torch.testing.assert_close(matrix, expected, rtol=tolerance, atol=tolerance)
    if skips:
        assert torch.equal(matrix[:, -1], expected[:, -1])


def test_the_sums_of_whole_numbers_are_exact_in_every_class_and_column() -> None:
    """The closed form: rows r·(1, …, d) of three classes in turn, about references of 1."""
    width, num_rows = 150, 40
    labels = torch.arange(num_rows) % 3
    features = torch.arange(1.0, num_rows + 1).unsqueeze(1) * torch.arange(1.0, width + 1)
    sums = Sums.over(torch.ones(4, width), (torch.zeros(4, width + 1, dtype=torch.float64),))
    fused_rows.add_rows(features, ClassBatch(labels, 4), sums, settle=False, keep_shifted=False)
    for k in range(4):
        own = features[labels == k].double() - 1
        assert torch.equal(sums.total[k], own.sum(dim=0))
        assert float(sums.square[k]) == float(own.square().sum())


@pytest.mark.parametrize("num_classes", [3, 40], ids=["all classes", "few of many"])
@pytest.mark.parametrize("skips", [False, True], ids=["all", "finite ones"])
def test_bags_of_a_class_are_added_to_its_own_sums(num_classes: int, skips: bool) -> None:
    labels = torch.cat([torch.zeros(150, dtype=torch.int64), random_labels(60, 3)]) * (num_classes // 3)
    labels = labels[torch.randperm(210, generator=torch.Generator().manual_seed(1))]
    features = torch.randint(-9, 9, (210, 130), generator=torch.Generator().manual_seed(2)).float()  # sums are exact
    kept = torch.ones(210, dtype=torch.bool)
    if skips:
        kept[::4] = False
        features[~kept, 129] = torch.nan
    batch = ClassBatch(labels, num_classes)
    assert batch.bags(torch.device("cpu"), fused_rows.MOST_IN_TURN).per_class == 3
    sums = Sums.over(torch.ones(num_classes, 130), (torch.ones(num_classes, 131 + skips, dtype=torch.float64),))
    fused_rows.add_rows(features, batch, sums, settle=False, keep_shifted=False)
    for k in range(num_classes):
        own = features[kept & (labels == k)].double() - 1
        assert torch.equal(sums.total[k], 1 + own.sum(dim=0))
        assert float(sums.square[k]) == 1 + float(own.square().sum())
        if sums.kept is not None:
            assert float(sums.kept[k]) == 1 + len(own)


def test_more_than_what_is_looked_at_together_counts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_rows, "WIDE", tl.constexpr(4))  # of features, and of bags, here 20 and 6
    monkeypatch.setattr(fused_rows, "MOST_IN_TURN", 1)
    features = torch.full((12, 20), 2.0)
    features[1, 18] = torch.nan
    sums = Sums.over(torch.ones(2, 20), (torch.zeros(2, 22, dtype=torch.float64),))
    fused_rows.add_rows(features, ClassBatch(torch.arange(12) % 2, 2), sums, settle=False, keep_shifted=False)
    assert sums.total.tolist() == [[6] * 20, [5] * 20]
    assert sums.square.tolist() == [6 * 20, 5 * 20]
    assert sums.kept is not None
    assert sums.kept.tolist() == [6, 5]


@pytest.mark.parametrize("num_classes", [3, 40], ids=["all classes", "few of many"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"precision": "double"}, {"state_bytes": 8}, {"skip_non_finite": True}, {"covariance": True}),
        {"state_bytes": 8, "skip_non_finite": True},
        {"precision": "double", "covariance": True, "skip_non_finite": True},
    ],
    ids=str,
)
def test_streams_give_the_moments_of_two_passes(num_classes: int, options: dict[str, Any], relative: Relative) -> None:
    labels = random_labels(500, 3) * (num_classes // 3)
    noise = torch.randn(500, 150, generator=torch.Generator().manual_seed(1))
    features = labels.unsqueeze(1) + 1e-2 * noise
    kept = torch.ones(500, dtype=torch.bool)
    if "skip_non_finite" in options:
        kept = torch.arange(500) % 7 != 3
        features[~kept, 4] = torch.nan
    layer = MomentAccumulator(num_classes, 150, **options)
    for some, own in zip(features.split(100), labels.split(100), strict=True):
        layer.update(some, ClassBatch(own, num_classes))
    found = layer.moments()
    expected = ClassMoments.from_features(
        features[kept].double(), labels[kept], num_classes=num_classes, covariance="covariance" in options
    )
    # float32 differences of samples that are near each other are exact; some of 8 bytes are added up in float32
    tolerance = 1e-6 if "state_bytes" in options else SINGLE
    assert torch.equal(found.count, expected.count)
    assert layer.dropped.sum() == (~kept).sum()
    assert relative(found.mean[found.present], expected.mean[found.present]) <= tolerance
    assert relative(found.scatter, expected.scatter) <= tolerance
    if expected.within_scatter is not None:
        assert relative(found.within_scatter, expected.within_scatter) <= 1e-5  # products of float32 rows


@pytest.mark.parametrize("options", [{}, {"skip_non_finite": True}, {"state_bytes": 8}, {"covariance": True}], ids=str)
def test_a_run_goes_on_to_the_last_bit_and_with_more_classes(options: dict[str, Any]) -> None:
    features, labels = torch.randn(240, 150, generator=torch.Generator().manual_seed(0)), random_labels(240, 4)
    labels[:120] %= 2
    batches = [(some, own) for some, own in zip(features.split(40), labels.split(40), strict=True)]
    whole, first, second = (MomentAccumulator(number, 150, **options) for number in (4, 2, 4))
    for some, own in batches:
        whole.update(some, ClassBatch(own, 4))
    for some, own in batches[:3]:
        first.update(some, ClassBatch(own, 2))
    first.grow(4)
    second.load_state(first.state())
    for some, own in batches[3:]:
        second.update(some, ClassBatch(own, 4))
    expected, found = whole.state(), second.state()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_runs_and_the_order_of_classes_agree_to_the_last_bit(stream: Stream) -> None:
    features, labels = torch.randn(300, 200), random_labels(300, 5)
    first, second = (stream(features, labels, 5, batch_size=100).state() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    renamed = stream(features, 4 - labels, 5, batch_size=100).state()
    assert torch.equal(renamed["total"].flip(0), first["total"])
    assert torch.equal(renamed["square"].flip(0), first["square"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_show_in_the_squares_of_their_class(bad: float) -> None:
    features = torch.ones(6, 150)
    features[4, 149] = bad
    layer = MomentAccumulator(3, 150)
    spoilt = layer.update(features, ClassBatch(torch.tensor([0, 1, 2, 0, 1, 2]), 3))
    assert isinstance(spoilt, Tensor)
    assert spoilt.isfinite().tolist() == [True, False, True]


def test_the_largest_numbers_are_finite() -> None:
    features = torch.zeros(4, 150)
    features[0, 3], features[1, 3], features[2, 3] = torch.finfo().max, torch.inf, torch.nan
    layer = MomentAccumulator(1, 150, skip_non_finite=True)
    layer.kernel.add_rows(
        features, ClassBatch(torch.zeros(4, dtype=torch.int64), 1), layer.sums, settle=False, keep_shifted=False
    )
    assert layer.sums.kept is not None
    assert layer.sums.kept.tolist() == [2]
    assert float(layer.sums.square[0]) == torch.finfo().max ** 2


def test_rows_without_features_are_counted() -> None:
    sums = Sums.over(torch.ones(2, 0), (torch.zeros(2, 2, dtype=torch.float64),))
    batch = ClassBatch(torch.tensor([0, 1, 1]), 2)
    fused_rows.add_rows(torch.ones(3, 0), batch, sums, settle=False, keep_shifted=False)
    assert sums.kept is not None
    assert (sums.square.tolist(), sums.kept.tolist()) == ([0, 0], [1, 2])


def test_an_empty_batch_and_one_with_too_many_classes_leave_the_sums_alone() -> None:
    layer = MomentAccumulator(3, 150)
    layer.update(torch.ones(3, 150), ClassBatch(torch.tensor([0, 1, 2]), 3))
    before = {name: part.clone() for name, part in layer.state().items()}
    nothing = torch.empty(0, 150)
    layer.kernel.add_rows(nothing, ClassBatch(random_labels(0, 3), 3), layer.sums, settle=False, keep_shifted=False)
    with pytest.raises(ValueError, match="the batch has 4 classes, the sums have 3"):
        layer.kernel.add_rows(
            torch.ones(1, 150), ClassBatch(torch.tensor([3]), 4), layer.sums, settle=False, keep_shifted=False
        )
    assert all(torch.equal(part, before[name]) for name, part in layer.state().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"skip_non_finite": True}, {"precision": "double"}], ids=str)
def test_features_of_half_precision_are_those_of_single(dtype: torch.dtype, options: dict[str, Any]) -> None:
    features, labels = torch.randn(60, 150, generator=torch.Generator().manual_seed(0)).to(dtype), random_labels(60, 3)
    if "skip_non_finite" in options:
        features[::7, 4], features[3, 0] = torch.nan, torch.inf
    found = []
    for some in (features, features.float()):
        layer = MomentAccumulator(3, 150, **options)
        layer.update(some, ClassBatch(labels, 3))
        found.append(layer.state())
    half, single = found
    assert all(torch.equal(half[name], single[name]) for name in single)


def test_differences_are_rounded_not_the_features() -> None:
    """Features in float64, such as those of a model that went on in it, about references in float32."""
    features = 1000 + 1e-4 * torch.randn(9, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums = Sums.over(torch.full((1, 150), 1000.0), (torch.zeros(1, 151, dtype=torch.float64),))
    batch = ClassBatch(torch.zeros(9, dtype=torch.int64), 1)
    fused_rows.add_rows(features, batch, sums, settle=False, keep_shifted=False)
    assert float(sums.square) == pytest.approx(float((features - 1000).square().sum()), rel=1e-7)


def test_machine_code_is_made_for_gpus_old_and_new(tmp_path: Path) -> None:
    """Compiled without a GPU, in a process that does not interpret; no sum depends on which program comes first."""
    script = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neurocollapse.statistics import fused_rows

SINGLE, DOUBLE, HALF, BRAIN = "*fp32", "*fp64", "*fp16", "*bf16"
TYPES = dict.fromkeys(["num_features", "num_blocks", "num_pieces", "per_class"], "i32") | {"finite": "*i8"}
TYPES |= dict.fromkeys(["order", "starts", "classes"], "*i64")
TYPES |= dict.fromkeys(["square", "squares", "kept", "parts", "numbers"], DOUBLE)

def code(kernel, target, given, **constants):
    types = {name: given.get(name) or TYPES.get(name, "i64") for name in kernel.arg_names}
    constants = {name: value for name, value in constants.items() if name in types}
    types |= dict.fromkeys(constants, "constexpr")
    return compile(ASTSource(fn=kernel, signature=types, constexprs=constants), target=target, options=fused_rows.FUSED)

def made(target, features, reference, total):
    given = {"features": features, "reference": reference, "shifted": reference, "total": total}
    for skips in (True, False):
        for several in (True, False):
            absent = [] if skips else ["finite", "kept", "numbers", "shifted"]
            absent += [] if several else ["parts", "classes"]
            constants = dict.fromkeys(absent) | {"column_step": 1, "ROWS": fused_rows.MOST_ROWS if several else 1}
            constants |= {} if several else {"per_class": 1}
            kernels = [fused_rows.add_bags, fused_rows.add_squares]
            kernels += [fused_rows.find_finite] * skips + [fused_rows.add_parts] * several
            yield from (code(kernel, target, given, **constants) for kernel in kernels)

KINDS = [(SINGLE, SINGLE, DOUBLE), (SINGLE, SINGLE, SINGLE), (SINGLE, DOUBLE, DOUBLE), (DOUBLE, DOUBLE, DOUBLE)]
for capability, kinds in [(75, KINDS + [(HALF, SINGLE, DOUBLE)]), (90, KINDS + [(BRAIN, SINGLE, DOUBLE)])]:
    codes = [one for kind in kinds for one in made(GPUTarget("cuda", capability, 32), *kind)]
    assert all(len(one.asm["cubin"]) > 1000 for one in codes)
    assert not any("atom." in one.asm["ptx"] or "red.global" in one.asm["ptx"] for one in codes)
    print(len(codes))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["60", "60"]  # 5 kinds, 12 kernels


def test_triton_runs_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = ("cpu", "cuda:1", "meta")
    assert [kernel_on(device).name for device in devices] == ["triton", "triton", "sorted"]
    monkeypatch.delenv("TRITON_INTERPRET")
    assert [kernel_on(device).name for device in devices[1:]] == ["triton", "sorted"]
    assert kernel_on("cpu").name in ("compiled", "torch")
    monkeypatch.delenv("NEUROCOLLAPSE_KERNEL")
    assert kernel_on("cuda").name == "sorted"


def test_without_triton_asking_for_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # which importing it takes for "not there"
    with pytest.raises(ValueError, match=r"^NEUROCOLLAPSE_KERNEL=triton, but Triton cannot be imported \(.*\); .*$"):
        nc.collect(nn.Linear(4, 3), [])


def test_a_whole_pass_runs_on_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(torch.randn(20, 6, dtype=torch.float64), random_labels(20, 3)) for _ in range(3)]
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    found = nc.analyze(model, batches, progress=False)
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "torch")
    expected = nc.analyze(model, batches, progress=False)
    assert found.attrs["statistics_kernel"] == "triton"
    torch.testing.assert_close(
        torch.from_numpy(found["compression"].values),
        torch.from_numpy(expected["compression"].values),
        rtol=DOUBLE,
        atol=0,
    )
