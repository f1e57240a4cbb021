"""The naive double of the pipeline: features saved by hand-written hooks, then two passes in float64."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

# Streamed against two passes: float32 shifts and squared norms leave a few 1e-8 (worst of 60 hard streams: 2.7e-6,
# for outlier references that do not occur here). Separations are 1 − cosine, so their error is absolute.
RELATIVE = 1e-6
ABSOLUTE_COSINE = 1e-8


def one_cosine_away(means: np.ndarray, *, absolute: bool) -> float:
    """1 − the largest cosine between two rows, pair by pair; NaN where a row has no direction."""
    if not (means != 0).any(axis=1).all():
        return np.nan
    largest = -np.inf
    for k in range(len(means)):
        for other in range(k):
            cosine = means[k] @ means[other] / np.sqrt((means[k] @ means[k]) * (means[other] @ means[other]))
            largest = max(largest, abs(cosine) if absolute else cosine)
    return 1 - largest


def measured_by_hand(features: Any, labels: Any, *, weighting: str = "equal") -> SimpleNamespace:
    """Every number of one layer from features in memory, in two float64 passes."""
    values, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    classes = [k for k in range(labels.max() + 1) if (labels == k).any()]
    shifted = values - values[0]  # constant features become exactly zero, and their centred means with them
    offsets = np.stack([shifted[labels == k].mean(axis=0) for k in classes])
    counts = np.array([(labels == k).sum() for k in classes])
    spread = np.array(
        [((shifted[labels == k] - offset) ** 2).sum() for k, offset in zip(classes, offsets, strict=True)]
    )
    weights = np.full(len(classes), 1 / len(classes)) if weighting == "equal" else counts / counts.sum()
    between = sum(w * ((offset - weights @ offsets) ** 2).sum() for w, offset in zip(weights, offsets, strict=True))
    inside = np.full(len(classes), 1 / len(classes)) if weighting == "equal" else counts / counts.sum()
    within = (inside * spread / counts).sum()
    means, centred = values[0] + offsets, offsets - offsets.mean(axis=0)
    return SimpleNamespace(
        within_trace=within,
        between_trace=between,
        compression=within / between if between else np.nan if within == 0 else np.inf,
        separation=one_cosine_away(centred, absolute=True),
        separation_etf=one_cosine_away(centred, absolute=False),
        discrimination=one_cosine_away(means, absolute=False),
        class_count=counts,
        class_scatter=spread / counts,
        means=means,
    )


def saved_by_hand(
    model: nn.Module, batches: list[tuple[tuple[Any, ...], dict[str, Any]]], modules: Mapping[str, nn.Module]
) -> dict[str, list[list[Any]]]:
    """What every module returned: name → for each batch, a copy of the output of each call."""
    saved: dict[str, list[list[Any]]] = {name: [] for name in modules}
    handles = []
    for name, module in modules.items():

        def keep(module: nn.Module, args: Any, output: Any, calls: list[list[Any]] = saved[name]) -> None:
            calls[-1].append(copied(output))

        handles.append(module.register_forward_hook(keep))
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for args, kwargs in batches:
            for calls in saved.values():
                calls.append([])
            with torch.no_grad():
                model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return saved


def copied(output: Any) -> Any:
    """A copy of all tensors in an output."""
    if isinstance(output, Tensor):
        return output.detach().clone()
    if isinstance(output, Mapping):
        return {key: copied(value) for key, value in output.items()}
    if isinstance(output, tuple | list):
        return tuple(copied(value) for value in output)
    return None


def assert_layer_equals(dataset: xr.Dataset, name: str, features: Any, labels: Any, **options: Any) -> None:
    """Every number of one layer of an analysis against features in memory."""
    layer, hand = dataset.sel(layer=name), measured_by_hand(features, labels, **options)
    for quantity in ("within_trace", "between_trace", "compression", "class_scatter"):
        np.testing.assert_allclose(
            layer[quantity].values, getattr(hand, quantity), rtol=RELATIVE, err_msg=f"{name} {quantity}"
        )
    for quantity in ("separation", "separation_etf", "discrimination"):
        np.testing.assert_allclose(
            layer[quantity].item(),
            getattr(hand, quantity),
            rtol=RELATIVE,
            atol=ABSOLUTE_COSINE,
            err_msg=f"{name} {quantity}",
        )
    assert layer["class_count"].values.tolist() == hand.class_count.tolist()


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers from a seed of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def clustered(num_samples: int, *shape: int, num_classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs around one centre a class, and labels of which every class has at least one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (num_samples,), generator=generator)])
    labels = labels[:num_samples]
    centres = torch.randn(num_classes, *shape, generator=generator)
    return centres[labels] + 0.5 * torch.randn(num_samples, *shape, generator=generator), labels


def in_batches(inputs: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """A loader as plain as it gets; the last batch is smaller where the size does not divide."""
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with weights from a seed, without moving the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def num_hooks(model: nn.Module) -> int:
    """Hooks of any kind on any module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@contextlib.contextmanager
def left_alone(*models: nn.Module) -> Iterator[None]:
    """Check that a block leaves weights, buffers, hooks, modes and every global random state as they were."""
    before = [_state(model) for model in models]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the global state is meant
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    try:
        yield
    finally:
        for model, (values, modes) in zip(models, before, strict=True):
            now, modes_now = _state(model)
            assert values.keys() == now.keys()
            changed = [name for name, value in values.items() if not torch.equal(value, now[name])]
            assert not changed
            assert modes_now == modes
            assert num_hooks(model) == 0
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1][1].tolist()  # noqa: NPY002 - the global state is meant
        assert random.getstate() == states[2]
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (grad, inference)


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Copies of all parameters and buffers (NaN as bytes, so that it equals itself), and the mode of each module."""
    named = [*model.named_parameters(), *model.named_buffers()]
    values = {name: value.detach().clone().contiguous().flatten().view(torch.uint8) for name, value in named}
    return values, {name: module.training for name, module in model.named_modules()}


@pytest.fixture(scope="session")
def hand() -> SimpleNamespace:
    """Everything above, for tests that cannot import it."""
    return SimpleNamespace(
        assert_layer_equals=assert_layer_equals,
        clustered=clustered,
        in_batches=in_batches,
        left_alone=left_alone,
        measured=measured_by_hand,
        num_hooks=num_hooks,
        randn=randn,
        saved=saved_by_hand,
        seeded=seeded,
    )
