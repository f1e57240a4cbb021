"""Some of the classes: the numbers are those of a loader that holds no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc

NUM_CLASSES = 6


def build() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, NUM_CLASSES)).double().eval()


def batches(number: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Classes of which 5, 1 and 3 are the most frequent ones."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.tensor([1.0, 4.0, 1.0, 3.0, 1.0, 6.0])
    found = []
    for _ in range(number):
        labels = torch.multinomial(weights, 15, replacement=True, generator=generator)
        inputs = torch.randn(15, 1, 4, 4, generator=generator, dtype=torch.float64) + labels.view(-1, 1, 1, 1)
        found.append((inputs, labels))
    return found


def only(loader: list[tuple[Tensor, Tensor]], classes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """The loader without other classes, the labels as places in the list."""
    kept = []
    for inputs, labels in loader:
        keep = torch.tensor([int(label) in classes for label in labels])
        kept.append((inputs[keep], torch.tensor([classes.index(int(label)) for label in labels[keep]])))
    return kept


@pytest.mark.parametrize("pool", ["mean", "positions"])
@pytest.mark.parametrize("classes", [[1, 3, 5], [5, 0], 3])
def test_the_numbers_are_those_of_a_loader_without_other_classes(classes: Any, pool: str) -> None:
    model, loader = build(), batches()
    labels = classes if isinstance(classes, list) else [1, 3, 5]
    found = nc.analyze(model, loader, classes=classes, pool={"0": pool}, quantities=["compression", "ncm_error"])
    expected = nc.analyze(
        model, only(loader, labels), pool={"0": pool}, num_classes=len(labels), quantities=["compression", "ncm_error"]
    )
    for name in ("compression", "ncm_error"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    assert found["class_name"].values.tolist() == [str(label) for label in labels]
    assert found.attrs["num_samples"] == expected.attrs["num_samples"]
    others = 60 - expected.attrs["num_samples"]
    assert f"{others} samples of other classes were left out" in json.loads(found.attrs["warnings"])


def test_decisions_are_among_the_chosen_classes() -> None:
    model, loader = build(), batches()
    found = nc.analyze(model, loader, classes=[5, 1], quantities="nc4", layers="penultimate")
    kept = only(loader, [5, 1])
    inputs = torch.cat([one for one, _ in kept])
    labels = torch.cat([one for _, one in kept])
    with torch.no_grad():
        features = model[:3](inputs)
        decided = model(inputs)[:, [5, 1]].argmax(dim=1)
    means = torch.stack([features[labels == k].mean(dim=0) for k in range(2)])
    nearest = (features[:, None] - means).square().sum(dim=2).argmin(dim=1)
    assert found["nc4"].item() == pytest.approx(float((nearest == decided).double().mean()), abs=1e-12)


def test_an_interrupted_run_goes_on_and_other_classes_are_refused(tmp_path: Path) -> None:
    model, loader = build(), batches()

    class Broken(list[Any]):
        def __iter__(self) -> Any:
            yield from loader[:2]
            raise OSError("stop here")

    options: dict[str, Any] = {"classes": [1, 3, 5], "resume": tmp_path / "state"}
    with pytest.raises(OSError, match="stop here"):
        nc.collect(model, Broken(), **options)
    with pytest.raises(nc.StateFileError, match="classes"):
        nc.collect(model, loader, **options | {"classes": [1, 3]})
    found, unbroken = nc.collect(model, loader, **options), nc.collect(model, loader, classes=[1, 3, 5])
    assert all(torch.equal(found[name].mean, unbroken[name].mean) for name in unbroken)
    assert found.num_samples == unbroken.num_samples
    with pytest.raises(nc.StateFileError, match="mask"):
        nc.collect(model, loader, **options, mask=False)


def test_tokens_of_the_most_frequent_classes() -> None:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(8, (5, 9), generator=generator).clamp(max=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embed = nn.Embedding(8, 4).double()
    found = nc.collect(embed, [{"input": ids}], label_fn=nc.labels.next_token("input"), classes=2)
    following = ids[:, 1:].flatten()
    frequent = sorted(torch.bincount(following).argsort(descending=True, stable=True)[:2].tolist())
    assert found["(root)"].count.tolist() == [int((following == label).sum()) for label in frequent]
    rows = embed(ids[:, :-1].flatten()).detach()
    torch.testing.assert_close(found["(root)"].mean[0], rows[following == frequent[0]].mean(dim=0))


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([1, 1], ValueError, r"`classes` must hold at least two different labels, got \[1, 1\]"),
        ([3], ValueError, r"at least two different labels"),
        (["cat", "dog"], TypeError, r"`classes` must be an integer of at least 0, got 'cat'"),
        ([-1, 2], ValueError, r"`classes` must be an integer of at least 0"),
        (1, ValueError, r"`classes` must be an integer of at least 2"),
        (20, ValueError, r"asks for 20 classes, but only 6 occur"),
        ("all", TypeError, r"`classes` must be an integer"),
    ],
)
def test_what_names_no_classes_is_refused_in_one_line(classes: Any, error: type[Exception], message: str) -> None:
    model = build()
    with pytest.raises(error, match=message) as caught:
        nc.collect(model, batches(), classes=classes)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_number_of_classes_needs_a_loader_that_can_be_repeated() -> None:
    with pytest.raises(TypeError, match="counts the labels of `loader` first"):
        nc.collect(build(), iter(batches()), classes=2)
    with pytest.raises(ValueError, match="leave out `num_classes` beside it"):
        nc.collect(build(), batches(), classes=2, num_classes=2)


def test_a_resumed_run_knows_how_many_others_were_left_out(tmp_path: Path) -> None:
    loader = batches()

    def interrupted() -> Any:
        yield from loader[:2]
        raise RuntimeError("stop")

    expected = nc.collect(build(), loader, classes=[1, 3])
    with pytest.raises(RuntimeError, match="stop"):
        nc.collect(build(), interrupted(), classes=[1, 3], resume=tmp_path / "state")
    found = nc.collect(build(), loader, classes=[1, 3], resume=tmp_path / "state")
    assert "samples of other classes were left out" in expected.attributes["warnings"]
    assert found.attributes["warnings"] == expected.attributes["warnings"]
