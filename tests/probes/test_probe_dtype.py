"""`analyze(probes=True)`: features keep the precision in which the layers computed them, no more and no less."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.models import DeepLinear
from neurocollapse.probes import mse_probe_accuracy, numerical_rank

LABELS = torch.arange(60) % 3


def clusters() -> Tensor:
    """Three well separated classes in eight dimensions, float64."""
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 2 * torch.eye(3, 8, dtype=torch.float64)[LABELS] + 0.1 * noise


def test_features_below_the_range_of_float32_are_probed() -> None:
    network = DeepLinear([8] * 51, "orth", 0.1, dtype=torch.float64)
    inputs = clusters()
    dataset = nc.analyze(network, [(inputs, LABELS)], layers="layers.*", probes=True)
    assert (dataset["probe_accuracy_test"] == 1.0).all()
    assert (dataset["numerical_rank"] == numerical_rank(network(inputs))).all()


@pytest.mark.parametrize(("shift", "scale"), [(1e9, 1.0), (0.0, 1e50), (0.0, 1e-50)])
@pytest.mark.parametrize("probe", ["logistic", "mse"])
def test_float64_features_keep_all_their_digits(shift: float, scale: float, probe: str) -> None:
    dataset = nc.analyze(nn.Identity(), [(shift + scale * clusters(), LABELS)], probes=probe)
    assert dataset["probe_accuracy_test"].item() == dataset["ncm_accuracy_test"].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rounding_of_half_precision_is_not_read_by_least_squares(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 200, generator=generator)
    train, test = ((torch.randn(60, 3, generator=generator) @ directions).to(dtype) for _ in range(2))
    labels = torch.randint(3, (60,), generator=generator)
    direct = mse_probe_accuracy(train, labels, test, labels)
    assert direct.train < 0.7  # three directions cannot fit random labels
    dataset = nc.analyze(nn.Identity(), [(train, labels)], probes="mse", test_loader=[(test, labels)])
    assert (dataset["probe_accuracy_train"].item(), dataset["probe_accuracy_test"].item()) == direct[:2]
    widened = mse_probe_accuracy(train.float(), labels, test.float(), labels, epsilon=torch.finfo(dtype).eps)
    assert widened == direct
    assert mse_probe_accuracy(train.float(), labels, test.float(), labels).train == 1.0


def test_float64_features_need_twice_the_memory() -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 50)))
    kept, work = 60 * 50 * 4, 60 * 50 * 8 * 4  # bytes in float32, and of four float64 copies
    narrow, wide = ([(features.to(dtype), LABELS)] for dtype in (torch.float32, torch.float64))
    assert "probe" in nc.analyze(nn.Identity(), narrow, probes=True, max_memory=kept + work).attrs
    with pytest.raises(nc.MemoryPlanError, match=r"probing 1 layers on 60 samples"):
        nc.analyze(nn.Identity(), wide, probes=True, max_memory=kept + work)
    assert "probe" in nc.analyze(nn.Identity(), wide, probes=True, max_memory=2 * kept + work).attrs
