"""The compiled kernel gives what operations of torch give, whatever features and labels it meets."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import compression
from neurocollapse.statistics import ClassBatch, MomentAccumulator, compiled, extension, kernel_on, kernels
from neurocollapse.statistics.sums import Sums
from tests.features import LAYOUTS, laid_out

SINGLE, DOUBLE = 1e-7, 1e-12  # float32 and float64 roundings of sums in another order
Stream = Callable[..., MomentAccumulator]
Relative = Callable[[Any, Any], float]

needs_kernel = pytest.mark.skipif(bool(extension.MISSING), reason=f"no compiled kernel here: {extension.MISSING}")

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="there is Triton for Linux alone")


@pytest.fixture(autouse=True)
def kernel() -> None:
    """Tests here choose their kernels themselves."""


def on(kernel: str, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Any:
    """What a function gives with one kernel."""
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", kernel)
    return run()


def clustered(num_classes: int, num_features: int, ratio: float, seed: int, dtype: torch.dtype) -> Any:
    """Gaussian classes whose deviations are `ratio` of their means."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (1500,), generator=generator)
    noise = torch.randn(len(labels), num_features, generator=generator, dtype=torch.float64)
    return (means[labels] + ratio * noise).to(dtype), labels


def plain(features: Tensor, labels: Tensor, ratio: float) -> Any:
    return features, labels


def offset(features: Tensor, labels: Tensor, ratio: float) -> Any:
    return features + 30.0, labels


def class_sorted(features: Tensor, labels: Tensor, ratio: float) -> Any:
    order = labels.argsort(stable=True)
    return features[order], labels[order]


def outlier_first(features: Tensor, labels: Tensor, ratio: float) -> Any:
    features = features.clone()
    features[0] += 1000 * ratio
    return features, labels


def drifting(features: Tensor, labels: Tensor, ratio: float) -> Any:
    return features + 10 * ratio * torch.linspace(0, 1, len(labels), dtype=features.dtype).unsqueeze(1), labels


def heavy_tailed(features: Tensor, labels: Tensor, ratio: float) -> Any:
    generator = torch.Generator().manual_seed(5)
    scale = torch.rand(len(labels), 1, generator=generator, dtype=features.dtype).pow(-1.0).clamp(max=1e3)
    return features * (1 + ratio * scale), labels


HARD = [plain, offset, class_sorted, outlier_first, drifting, heavy_tailed]


@pytest.mark.parametrize(
    ("other", "num_classes"),
    [
        *(("sorted", 10), ("sorted", 500)),
        *(pytest.param("compiled", number, marks=needs_kernel) for number in (10, 500)),
        pytest.param(
            "triton", 10, marks=[pytest.mark.slow, needs_triton]
        ),  # interpreted, 500 take a quarter of an hour
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("arrange", HARD, ids=lambda arrange: arrange.__name__)
@pytest.mark.parametrize("ratio", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_every_kernel_agrees_with_torch_on_hard_streams(
    other: str,
    arrange: Callable[..., Any],
    num_classes: int,
    dtype: torch.dtype,
    ratio: float,
    stream: Stream,
    relative: Relative,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels = arrange(*clustered(num_classes, 200, ratio, 0, dtype), ratio)
    left, right = (
        on(kernel, monkeypatch, lambda: stream(features, labels, num_classes, batch_size=256).moments())
        for kernel in ("torch", other)
    )
    tolerance = SINGLE if dtype == torch.float32 else DOUBLE
    if arrange is outlier_first and dtype == torch.float32:
        tolerance *= 4  # what sums about a reference 1000 deviations away round, on either kernel
    assert torch.equal(left.count, right.count)
    assert abs(compression(left, weighting="papers") / compression(right, weighting="papers") - 1) <= tolerance
    single = 5 if dtype == torch.float32 else 1  # a class of three samples has no others to average its roundings with
    assert relative(left.scatter, right.scatter) <= single * tolerance
    assert relative(left.mean[left.present], right.mean[left.present]) <= single * tolerance


def state(num_classes: int, num_features: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    """Sums that have begun."""
    total = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    return {
        "reference": torch.randn(num_classes, num_features, generator=generator).to(dtype),
        "partial": total,
        "total": total,
        "square": torch.rand(num_classes, generator=generator, dtype=torch.float64),
        "kept": None,
    }


def compared(seed: int) -> None:
    """Both kernels on sums, features and labels that a seed chooses; fails where they differ."""
    generator = torch.Generator().manual_seed(seed)

    def draw(choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    width = draw([0, 1, 2, 7, 127, 128, 129, 511, 512, 513, 1024, 1300])
    rows, num_classes = draw([0, 1, 3, 63, 64, 65, 200]), draw([1, 2, 10, 300])
    working, dtype = draw([torch.float32, torch.float64]), draw([torch.float32, torch.float64, torch.bfloat16])
    labels = draw([torch.randint(num_classes, (rows,), generator=generator), torch.full((rows,), num_classes - 1)])
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
    skips = draw([True, False])
    if skips and features.numel():
        spoilt = torch.rand(features.shape, generator=generator) < 0.5 / width
        features[spoilt] = draw([torch.nan, torch.inf, -torch.inf])
    features = laid_out(features, draw(LAYOUTS[:-1] if dtype == torch.bfloat16 else LAYOUTS))  # complex has no bfloat16
    before, sums_in = state(num_classes, width, working, generator), draw([torch.float64, torch.float32])
    if skips:
        before["kept"] = torch.zeros(num_classes, dtype=torch.float64)
    batch, found = ClassBatch(labels, num_classes), []
    for kernel in (kernels, compiled):
        own: dict[str, Any] = {name: None if part is None else part.clone() for name, part in before.items()}
        if working == torch.float32 and (kernel is kernels or sums_in == torch.float32):
            own["partial"] = own["total"].float()
        else:
            own["partial"] = own["total"]
        norms, shifted = kernel.add_rows(features, batch, Sums(**own), settle=False, keep_shifted=True)
        sums = own["total"] if own["partial"] is own["total"] else own["partial"]
        assert torch.equal(own["reference"], before["reference"])
        found.append((norms, shifted.clone(), sums.double(), own["square"], own["kept"]))
    tolerance = 2e-5 if working == torch.float32 else 1e-11  # float32 sums of 200 numbers about 1
    for left, right in zip(*found, strict=True):
        if left is not None:
            torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


@needs_kernel
@pytest.mark.parametrize("seed", range(100))
def test_any_shape_stride_and_dtype_is_added_up_alike(seed: int) -> None:
    compared(seed)


@needs_kernel
@pytest.mark.parametrize("wrong", ["label", "negative", "starts", "empty", "order"])
def test_labels_beyond_the_classes_touch_no_memory(wrong: str) -> None:
    generator = torch.Generator().manual_seed(0)
    own = state(3, 130, torch.float32, generator)
    batch = ClassBatch(torch.tensor([0, 1, 2, 2]), 3)
    if wrong == "label":
        batch = ClassBatch(torch.tensor([0, 1, 2, 3]), 3)
    elif wrong == "negative":
        batch.present[0] = -1
    elif wrong == "starts":
        batch.starts[1] = 5
    elif wrong == "empty":
        batch.starts[1] = 0
    else:
        batch.order[0] = 4
    before = {name: part.clone() for name, part in own.items() if part is not None}
    with pytest.raises(ValueError, match="labels of a batch lie outside the classes"):
        compiled.add_rows(torch.zeros(4, 130), batch, Sums(**own), settle=False, keep_shifted=False)
    assert all(torch.equal(own[name], part) for name, part in before.items())


@needs_kernel
@pytest.mark.parametrize("kernels", [("torch", "compiled"), ("compiled", "torch")], ids="-".join)
def test_a_run_goes_on_with_the_other_kernel(
    kernels: tuple[str, str], relative: Relative, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = clustered(4, 200, 1e-2, 0, torch.float32)
    halves = list(zip(features.split(70), labels.split(70), strict=True))
    moments = []
    for chosen in (kernels, kernels[:1] * 2):
        first, second = (on(kernel, monkeypatch, lambda: MomentAccumulator(4, 200)) for kernel in chosen)
        for part, own in halves[:10]:
            first.update(part, ClassBatch(own, 4))
        second.load_state(first.state())
        for part, own in halves[10:]:
            second.update(part, ClassBatch(own, 4))
        moments.append(second.moments())
    assert torch.equal(moments[0].count, moments[1].count)
    assert relative(moments[0].scatter, moments[1].scatter) <= SINGLE
    assert relative(moments[0].mean, moments[1].mean) <= SINGLE


@needs_kernel
def test_the_compiled_kernel_runs_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEUROCOLLAPSE_KERNEL", raising=False)
    assert [kernel_on(device).name for device in ("cpu", "meta", "cuda:1")] == ["compiled", "sorted", "sorted"]
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "torch")
    assert [kernel_on(device).name for device in ("cpu", "cuda")] == ["torch", "torch"]
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "sorted")
    assert [kernel_on(device).name for device in ("cpu", "cuda")] == ["sorted", "sorted"]


@pytest.mark.parametrize("kernel", ["torch", "sorted", pytest.param("compiled", marks=needs_kernel)])
def test_a_result_says_which_kernel_ran(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    found = on(kernel, monkeypatch, lambda: nc.analyze(nn.Linear(4, 3), batches))
    assert found.attrs["statistics_kernel"] == kernel


def test_a_wrong_choice_is_refused_in_one_line_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "fast")
    with pytest.raises(
        ValueError, match=r'^NEUROCOLLAPSE_KERNEL must be "torch", "compiled", "sorted" or "triton", got \'fast\'; .*$'
    ):
        nc.collect(nn.Linear(4, 3), [])


def test_an_installation_without_the_kernel_runs_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "MISSING", "No module named '_kernel'")
    monkeypatch.delenv("NEUROCOLLAPSE_KERNEL", raising=False)
    assert kernel_on("cpu").name == "torch"
    monkeypatch.setenv("NEUROCOLLAPSE_KERNEL", "compiled")
    with pytest.raises(
        ValueError, match=r"^NEUROCOLLAPSE_KERNEL=compiled, but this installation has no compiled kernel"
    ):
        kernel_on("cpu")


SOURCE = Path(compiled.__file__).with_name("_kernel.c")
UNDER_SANITIZERS = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
import test_compiled_kernel as tests
from neurocollapse.statistics import extension
spec = importlib.util.spec_from_file_location("_kernel", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
extension.add_rows, extension.group_rows = module.add_rows, module.group_rows
for seed in range(300):
    tests.compared(seed)
print("no fault in 300 batches")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
@pytest.mark.skipif(not SOURCE.exists(), reason="the installation has no source of the kernel")
def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path: Path) -> None:
    flags = [
        "-O1",
        "-g",
        "-fopenmp-simd",
        "-fPIC",
        "-shared",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]
    built = tmp_path / "_kernel.so"
    include = sysconfig.get_paths()["include"]
    compile_ = ["gcc", *flags, "-DMULTIVERSIONED=", f"-I{include}", str(SOURCE), "-o", str(built)]
    outcome = subprocess.run(compile_, capture_output=True, text=True, check=False)
    if outcome.returncode:
        pytest.skip(f"gcc has no sanitizers or no Python headers here: {outcome.stderr[-300:]}")
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = os.environ | {"LD_PRELOAD": runtime.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", UNDER_SANITIZERS, str(Path(__file__).parent), str(built)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "no fault in 300 batches\n"
