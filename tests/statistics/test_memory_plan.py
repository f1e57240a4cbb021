"""Statistics that do not fit are refused with the gigabytes, and what fits takes the memory that was planned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurocollapse.statistics import ClassMoments, MemoryPlan, MemoryPlanError, memory, memory_limit

CPU = torch.device("cpu")
GIB = 2**30


def test_a_plan_that_fits_says_nothing() -> None:
    MemoryPlan((("conv", GIB), ("fc", GIB)), num_classes=10, limit=2 * GIB).check()


def test_a_plan_that_does_not_fit_names_the_gigabytes_and_the_largest_layers() -> None:
    entries = (("a", GIB // 4), ("b", 3 * GIB), ("c", GIB), ("d", GIB // 2))
    with pytest.raises(MemoryPlanError) as raised:
        MemoryPlan(entries, num_classes=1000, limit=4 * GIB).check()
    assert str(raised.value) == (
        "the statistics of 4 layers and 1000 classes need 4.75 GiB, but only 4.00 GiB may be used "
        "(largest, in GiB: b 3.00, c 1.00, d 0.50); select fewer layers or classes (classes=), "
        'pool="mean", covariance=False, or raise max_memory'
    )
    assert isinstance(raised.value, MemoryError)


@pytest.mark.parametrize(
    ("labels", "num_classes"),
    [([0, 1], 10**30), ([0, 1], 10**15), ([0, 2**60], None), (torch.tensor([2**62, 1]), None)],
)
def test_moments_of_too_many_classes_are_refused_before_they_are_made(labels: Any, num_classes: int | None) -> None:
    with pytest.raises(MemoryPlanError, match=r"the statistics of 1 layers and [0-9]+ classes need [0-9.]+ GiB"):
        ClassMoments.from_features(torch.ones(2, 3), labels, num_classes)


@pytest.mark.parametrize(("requested", "expected"), [(1, 1), (2.5e9, 2_500_000_000), (np.int64(7), 7)])
def test_a_requested_limit_is_taken(requested: Any, expected: int) -> None:
    assert memory_limit(CPU, requested) == expected


@pytest.mark.parametrize("requested", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(requested: Any) -> None:
    with pytest.raises(ValueError, match=r"`max_memory` must be a positive number of bytes, got .*; 8 GiB is 8 \*"):
        memory_limit(CPU, requested)


@pytest.mark.parametrize("requested", ["5GB", [1], 1j])
def test_a_limit_is_no_text(requested: Any) -> None:
    with pytest.raises(TypeError, match=r"`max_memory` must be a number of bytes, got "):
        memory_limit(CPU, requested)


def test_the_default_limit_leaves_a_tenth_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_machine_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_group_memory", lambda: None)
    assert memory_limit(CPU) == 900
    monkeypatch.setattr(memory, "_group_memory", lambda: 500)
    assert memory_limit(CPU) == 450


def test_the_free_memory_of_this_machine_is_plausible() -> None:
    assert 2**26 < memory_limit(CPU) < 2**62


def control_group(folder: Path, limit: str, current: int = 600, cached: int = 200) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 300\ninactive_file {cached}\nactive_file 100\n")
    return folder


def test_a_control_groups_file_cache_counts_as_free(tmp_path: Path) -> None:
    assert memory._group_memory(control_group(tmp_path, "1000")) == 1000 - 600 + 200


def test_a_control_group_without_a_limit_sets_none(tmp_path: Path) -> None:
    assert memory._group_memory(control_group(tmp_path, "max")) is None
    assert memory._group_memory(tmp_path / "missing") is None


# The peak is this process's own: that of `resource.getrusage` starts at the memory of the process that began it.
STREAM = """
import json, re, sys, time
import torch
from neurocollapse.metrics import between_trace, separation, within_trace
from neurocollapse.statistics import ClassBatch, MomentAccumulator

K, d, batch, num_batches = 1000, 65536, 64, int(sys.argv[1])
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
generator = torch.Generator().manual_seed(0)
baseline, start = peak(), time.process_time()
accumulator = MomentAccumulator(K, d)
features = torch.randn(batch, d, generator=generator)
peaks = []
for index in range(num_batches):
    labels = (torch.arange(batch) + index * batch) % K
    accumulator.update(features + labels.unsqueeze(1), ClassBatch(labels, K))
    peaks.append(peak())
moments = accumulator.moments()
del accumulator
results = [within_trace(moments), between_trace(moments), separation(moments)]
seconds = time.process_time() - start
print(json.dumps(dict(baseline=baseline, half=peaks[num_batches // 2], streamed=peaks[-1], peak=peak(),
                      seconds=seconds, results=results)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory in use is read from /proc")
def test_sixty_five_thousand_features_and_a_thousand_classes_stream_in_three_gigabytes() -> None:
    output = subprocess.run([sys.executable, "-c", STREAM, "64"], capture_output=True, text=True, check=True).stdout
    measured = json.loads(output)
    print({key: round(value / GIB, 3) for key, value in measured.items() if key not in ("seconds", "results")})
    print(f"{measured['seconds']:.1f} s of processor time")
    assert measured["peak"] < 3 * GIB
    assert measured["streamed"] - measured["half"] < 0.05 * GIB  # every class has been met by then
    assert np.isfinite(measured["results"]).all()
