"""The linear layers behind taps at their inputs."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from neurocollapse.hooks import weight_and_bias
from neurocollapse.passes.loop import Pass
from neurocollapse.statistics import Reader, memory_limit
from neurocollapse.support.text import first_line, listed


def readers_of(run: Pass, num_features: Mapping[str, int]) -> tuple[dict[str, Reader], list[str]]:
    """The readers of all layers that have one, by layer name, and a note on those that cannot be read.

    `num_features` says how many each layer has. There is a reader where the weight takes the features as they are: not
    where these are flattened or projected.
    """
    readers: dict[str, Reader] = {}
    problems: dict[str, str] = {}
    for site, record in run.progress.layers.items():
        tap = run.tap_of(site)
        if tap is None or not tap.at_input or record.name not in num_features:
            continue
        try:
            pair = weight_and_bias(tap.module)
            if pair is not None and pair[0].shape[1] == num_features[record.name]:
                readers[record.name] = _reader(*pair)
        except Exception as error:  # of any kind of module: a pass must not be lost for an extra
            problems[record.name] = first_line(error)
    if not problems:
        return readers, []
    reason = next(iter(problems.values()))
    return readers, [f"the weights behind {listed(problems)} cannot be read ({reason}): what needs them is undefined"]


def _reader(weight: Tensor, bias: Tensor | None) -> Reader:
    """Copies in float64 on the CPU, which later changes of the model do not reach."""
    if weight.is_meta or hasattr(weight, "full_tensor"):
        raise ValueError("they are not in the memory of this process")
    if 8 * weight.numel() > memory_limit(torch.device("cpu")):
        raise ValueError("they do not fit in memory")
    with torch.inference_mode(False):
        copy = functools.partial(Tensor.to, device="cpu", dtype=torch.float64, copy=True)
        return Reader(copy(weight), None if bias is None else copy(bias))
