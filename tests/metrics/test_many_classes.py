"""Fifty thousand classes are measured in little more memory than their moments take."""

import json
import subprocess
import sys

import pytest

GIB = 2**30

# The peak is this process's own: that of `resource.getrusage` starts at the memory of the process that began it.
MEASURE = """
import json, re, resource, sys, time, warnings
import torch
torch.set_num_threads(1)
import neurocollapse as nc

warnings.simplefilter("ignore")
num_classes, num_features, equal = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "equal"
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
generator = torch.Generator().manual_seed(0)
counts = torch.full((num_classes,), 80) if equal else (350_000 // torch.arange(1, num_classes + 1)).clamp(min=1)
moments = nc.ClassMoments(
    count=counts,
    reference=torch.randn(num_classes, num_features, generator=generator),
    offset_sum=torch.randn(num_classes, num_features, generator=generator).double(),
    offset_square=2 * num_features * counts.double(),
)
reader = nc.statistics.Reader(torch.randn(num_classes, num_features, generator=generator).double())
small = nc.ClassMoments.from_features(torch.eye(4), [0, 0, 1, 2])
nc.measure({"warm": small})
collection = nc.MomentCollection({"fc": moments}, readers={"fc": reader})
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
start = time.process_time()
dataset = nc.measure(collection)
print(json.dumps(dict(beyond=peak() - before, seconds=time.process_time() - start, names=list(dataset.data_vars))))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of processor time may take long on a busy machine
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory in use is read from /proc")
@pytest.mark.parametrize("counts", ["equal", "zipf"])
@pytest.mark.parametrize(
    ("num_classes", "num_features", "memory", "seconds"), [(12_000, 64, GIB, 60), (50_257, 768, 1.5 * GIB, 90)]
)
def test_all_default_quantities_of_many_classes_fit(
    num_classes: int, num_features: int, memory: float, seconds: float, counts: str
) -> None:
    command = [sys.executable, "-c", MEASURE, str(num_classes), str(num_features), counts]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{measured['beyond'] / GIB:.2f} GiB beside the moments, {measured['seconds']:.1f} s of processor time")
    assert {"cdnv", "nc2_distance", "gnc2", "seli_distance", "nc3", "nc3_product", "unc3"} <= set(measured["names"])
    assert measured["beyond"] < memory
    assert measured["seconds"] < seconds  # 60 on a quiet machine
