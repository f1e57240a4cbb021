"""A settled site whose value looks like the first one is read without a second look, and all others with one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurocollapse.hooks import CaptureError, Recorder
from neurocollapse.hooks.plan import Plan


class Given(nn.Module):
    """Gives back what it is told to."""

    def forward(self, value: Any, then: Any) -> Any:
        return then


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Given()

    def forward(self, value: Any, then: Any) -> Any:
        return self.layer(value, then)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def recorded(first: Tensor, second: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Any, list[bool]]:
    """The features of a second value, and whether each of the two was read at once."""
    quick, features = [], []
    plain = Plan.quick

    def watched(self: Plan, value: Any, forward: Any) -> Any:
        found = plain(self, value, forward)
        quick.append(found is not None)
        return found

    monkeypatch.setattr(Plan, "quick", watched)
    layers = options.pop("layers", ["layer"])
    around = options.pop("around", torch.no_grad)
    with Recorder(Model(), layers, sink=lambda key, value, positions: features.append(value), **options) as recorder:
        recorder.model(torch.zeros(4, 1), first)
        with around():
            recorder.model(torch.zeros(4, 1), second)
    return features[-1], quick


@pytest.mark.parametrize(
    ("shape", "pool", "at_once"),
    [
        ((4, 5), "auto", True),
        ((4, 5), "max", True),
        ((4, 5, 3, 3), "flatten", True),
        ((4, 5, 3, 3), lambda maps: maps.flatten(1), False),
    ],
)
def test_a_value_like_the_first_is_read_at_once(
    shape: Any, pool: Any, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = randn(*shape)
    features, quick = recorded(value, value + 1, monkeypatch, pool=pool)
    assert torch.equal(features, (value + 1).flatten(1))
    assert quick == [False, at_once]


def test_a_mean_is_that_of_the_second_value(monkeypatch: pytest.MonkeyPatch) -> None:
    features = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    batches = [randn(2, 3, 5, 5), randn(2, 3, 5, 5) + 1]
    with Recorder(model, ["1"], sink=lambda key, value, positions: features.append(value)), torch.no_grad():
        outputs = [model(batch) for batch in batches]
    assert all(torch.equal(found, output.mean((2, 3))) for found, output in zip(features, outputs, strict=True))


def test_gradients_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    features, quick = recorded(randn(4, 5), randn(4, 5).requires_grad_(), monkeypatch)
    assert quick == [False, True]
    assert not features.requires_grad


class Other(Tensor):
    """A tensor of another class."""


OTHERS: dict[str, Any] = {
    "dtype": lambda: randn(4, 5).bfloat16(),
    "class": lambda: randn(4, 5).as_subclass(Other),
    "tuple": lambda: (randn(4, 5), randn(4, 2)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_kind_of_value_is_looked_at(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, quick = recorded(randn(4, 5), OTHERS[other](), monkeypatch)
    assert quick == [False, False]
    assert (features.dtype, features.shape) == (torch.float32, (4, 5))


WRONG: dict[str, Any] = {
    "width": lambda: randn(4, 6),
    "samples": lambda: randn(3, 5),
    "integers": lambda: torch.ones(4, 5, dtype=torch.int64),
    "sparse": lambda: randn(4, 5).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([randn(5), randn(5), randn(5), randn(5)]),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_value_that_does_not_fit_is_refused_as_before(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaptureError, match="layer 'layer': "):
        recorded(randn(4, 5), WRONG[wrong](), monkeypatch)


def test_autocast_and_transforms_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    _, quick = recorded(randn(4, 5), randn(4, 5), monkeypatch, around=lambda: torch.autocast("cpu", torch.bfloat16))
    assert quick == [False, False]
    features: list[Tensor] = []
    with Recorder(nn.Linear(5, 2), ["(root)"], sink=lambda key, value, positions: features.append(value)) as recorder:
        recorder.model(randn(4, 5))
        torch.func.grad(lambda value: recorder.model(value).sum())(randn(4, 5))
    assert torch.equal(features[0], features[1])
    assert not torch._C._functorch.is_functorch_wrapped_tensor(features[1])
