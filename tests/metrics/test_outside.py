"""NC5 and NECO: naive doubles, planted data inside and outside the span of the class means, invariances, resuming."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import neurocollapse as nc
from neurocollapse.data.labels import of_samples
from neurocollapse.metrics.outside import auroc, false_positive_rate, nc5, neco
from neurocollapse.statistics import ClassMoments

Batches = list[tuple[Tensor, Tensor]]
NAMES = ("nc5", "neco", "neco_ood", "neco_auroc", "neco_fpr95")


def planted(spread: float = 0.3, seed: int = 0) -> tuple[Batches, Batches]:
    """Four classes about axes of eight dimensions, and other data in the four dimensions that are left."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(120) % 4
    inside = 3 * torch.eye(4, 8)[labels] + spread * torch.randn(120, 8, generator=generator)
    outside = 3 * torch.eye(4, 8).flip(1)[torch.arange(80) % 4] + spread * torch.randn(80, 8, generator=generator)
    return (
        list(zip(inside.split(50), labels.split(50), strict=True)),
        list(zip(outside.split(30), (7 + torch.arange(80) % 3).split(30), strict=True)),
    )


def joined(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """All inputs and labels."""
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return inputs.double().numpy(), labels.numpy()


def naive(inside: np.ndarray, labels: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """From a projection matrix, pairs of samples, and every threshold that there is."""
    means = np.stack([inside[labels == k].mean(axis=0) for k in np.unique(labels)])
    offset = means - means.mean(axis=0)
    projection = offset.T @ np.linalg.pinv(offset.T)
    scores = [
        np.array([np.linalg.norm(projection @ h) / np.linalg.norm(h) for h in part - means.mean(axis=0)])
        for part in (inside, outside)
    ]
    other = outside.mean(axis=0)
    cosines = [abs(m @ other) / np.linalg.norm(m) / np.linalg.norm(other) for m in means]
    threshold = max(t for t in scores[0] if (scores[0] >= t).mean() >= 0.95)
    return {
        "nc5": float(np.mean(cosines)),
        "neco": scores[0].mean(),
        "neco_ood": scores[1].mean(),
        "neco_auroc": float(np.mean([(a > b) + (a == b) / 2 for a in scores[0] for b in scores[1]])),
        "neco_fpr95": (scores[1] >= threshold).mean(),
    }


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_the_numbers_are_the_naive_ones(spread: float) -> None:
    inside, outside = planted(spread)
    dataset = nc.analyze(nn.Identity(), inside, ood_loader=outside)
    expected = naive(*joined(inside), joined(outside)[0])
    assert {name: dataset[name].item() for name in NAMES} == pytest.approx(expected, rel=1e-5)  # float32 features


def test_planted_data_outside_the_span_are_told_and_shuffled_ones_are_not() -> None:
    inside, outside = planted()
    dataset = nc.analyze(nn.Identity(), inside, ood_loader=outside)
    assert dataset["neco_auroc"].item() == 1
    assert dataset["neco_fpr95"].item() == 0
    assert dataset["nc5"].item() < 0.1
    assert dataset["neco"].item() > 0.85 > 0.4 > dataset["neco_ood"].item()
    same = nc.analyze(nn.Identity(), inside, ood_loader=planted(seed=1)[0])
    assert abs(same["neco_auroc"].item() - 0.5) < 0.1  # of 120 × 120 pairs; a standard error of 0.04
    assert same["nc5"].item() > 0.4


def test_at_collapse_orthogonal_data_have_the_limits() -> None:
    labels = torch.arange(12) % 3
    inside, outside = [(torch.eye(3, 6)[labels], labels)], [(torch.eye(6)[3:], torch.zeros(3, dtype=torch.int64))]
    dataset = nc.analyze(nn.Identity(), inside, ood_loader=outside)
    assert (dataset["nc5"].item(), dataset["neco_auroc"].item()) == (0, 1)
    assert dataset["neco"].item() == pytest.approx(1, abs=1e-6)
    limits = {name: dataset[name].attrs.get("at_collapse") for name in NAMES}
    assert limits == {"nc5": 0.0, "neco": 1.0, "neco_ood": None, "neco_auroc": None, "neco_fpr95": None}


def test_rotation_scale_and_labels_change_nothing() -> None:
    inside, outside = planted(1.0)
    features, labels, others = *joined(inside), joined(outside)[0]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    found = []
    for change, shift in ((np.eye(8), 0), (4 * turn, 0), (np.eye(8), 1)):
        moments = ClassMoments.from_features(features @ change, (labels + shift) % 4)
        one, two = (neco(moments, torch.tensor(z @ change)).numpy() for z in (features, others))
        found.append([nc5(moments, torch.tensor(others @ change)), auroc(one, two), one.mean(), two.mean()])
    assert found[1] == pytest.approx(found[0], rel=1e-10)
    assert found[2] == pytest.approx(found[0], rel=1e-10)


def test_auroc_and_false_positives_are_those_of_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(0)
    inside, outside = (generator.integers(0, 9, size).astype(float) for size in (40, 30))
    truth = np.repeat([1, 0], [40, 30])
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.concatenate([inside, outside])))
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))
    assert false_positive_rate(inside, inside) >= 0.95
    assert math.isnan(auroc(inside[:0], outside))
    assert math.isnan(false_positive_rate(np.array([math.nan]), outside))


def test_what_has_no_direction_is_undefined() -> None:
    coinciding = ClassMoments.from_features(torch.ones(4, 3), [0, 0, 1, 1])
    assert neco(coinciding, torch.eye(3)).isnan().all()
    moments = ClassMoments.from_features(torch.eye(2, 3), [0, 1])
    assert neco(moments, torch.tensor([[0.5, 0.5, 0.0]])).tolist() == [0.0]  # the mean of the class means
    assert math.isnan(nc5(moments, torch.zeros(2, 3)))


def stopping(batches: Batches, stop: int) -> Any:
    """A loader that fails after some batches."""
    yield from batches[:stop]
    raise KeyboardInterrupt("stop here")


class Breaking(list[Any]):
    """A loader that fails after its first batch, once."""

    broken = False

    def __iter__(self) -> Any:
        if self.broken:
            return super().__iter__()
        self.broken = True
        return stopping(list(super().__iter__()), 1)


def test_a_run_broken_in_the_other_data_continues_to_the_last_bit(tmp_path: Path) -> None:
    inside, outside = planted()
    unbroken = nc.analyze(nn.Identity(), inside, ood_loader=outside)
    loader = Breaking(outside)
    with pytest.raises(KeyboardInterrupt):
        nc.analyze(nn.Identity(), inside, ood_loader=loader, resume=tmp_path / "state")
    again = nc.analyze(nn.Identity(), inside, ood_loader=loader, resume=tmp_path / "state")
    for name in NAMES:
        np.testing.assert_array_equal(again[name], unbroken[name])
    assert (tmp_path / "state.ood_loader").exists()


def test_features_that_are_not_finite_are_left_out() -> None:
    inside, outside = planted()
    spoilt = [(one.clone(), labels) for one, labels in outside]
    spoilt[0][0][3, 2] = torch.nan
    found = nc.analyze(nn.Identity(), inside, ood_loader=spoilt, non_finite="skip")
    without = [(torch.cat([outside[0][0][:3], outside[0][0][4:]]), outside[0][1][1:]), *outside[1:]]
    expected = nc.analyze(nn.Identity(), inside, ood_loader=without)
    assert found["neco_ood"].item() == pytest.approx(expected["neco_ood"].item(), rel=1e-12)


def test_other_data_that_cannot_be_used_are_refused_in_one_line() -> None:
    inside, outside = planted()
    with pytest.raises(TypeError, match="`ood_loader` must be an iterable of batches, got int"):
        nc.analyze(nn.Identity(), inside, ood_loader=3)
    with pytest.raises(nc.QuantityError, match=r"quantity 'nc5' needs other data; call .*ood_loader="):
        nc.analyze(nn.Identity(), inside, quantities="nc5")
    with pytest.raises(ValueError, match=r"^`ood_loader`: the loader gave no samples"):
        nc.analyze(nn.Identity(), inside, ood_loader=[])
    with pytest.raises(TypeError, match="goes through `loader` a second time"):
        nc.analyze(nn.Identity(), iter(inside), ood_loader=outside)
    assert "nc5" not in nc.measure(nc.collect(nn.Identity(), inside), quantities="all")


class Points(Dataset[Tensor]):
    """Samples without labels."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Tensor:
        return self.points[index]


def as_batches(points: Tensor) -> dict[str, Any]:
    """The same samples as loaders of many kinds, whose labels are missing or no class indices."""
    count = len(points)
    return {
        "tensors": list(points.split(7)),
        "arrays": [part.numpy() for part in points.split(7)],
        "tuples of one": DataLoader(TensorDataset(points), 7),
        "a dataset of tensors": DataLoader(Points(points), 7),
        "mappings": [{"input": part} for part in points.split(7)],
        "no labels": [(points, None)],
        "negative labels": [(points, torch.full((count,), -1))],
        "ignored labels": [(points, torch.full((count,), -100))],
        "numbers": [(points, torch.rand(count))],
        "words": [(points, ["noise"] * count)],
        "two that could be labels": [(points, torch.zeros(count, dtype=torch.int64), torch.arange(count))],
    }


@pytest.mark.parametrize("kind", sorted(as_batches(torch.zeros(8, 2))))
def test_labels_of_other_data_are_not_looked_at_and_may_be_missing(kind: str) -> None:
    inside, outside = planted()
    points = torch.cat([part for part, _ in outside])
    expected = nc.analyze(nn.Identity(), inside, ood_loader=outside)
    found = nc.analyze(nn.Identity(), inside, ood_loader=as_batches(points)[kind])
    for name in NAMES:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-9), name


def test_what_holds_the_labels_is_not_for_the_model_in_other_data_either() -> None:
    class Strict(nn.Module):
        """A model that computes a loss of what it takes for labels."""

        def forward(self, x: Tensor, kind: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
            assert kind is None
            assert labels is None
            return x

    inside, outside = planted()
    for name, label_fn in (("labels", None), ("kind", of_samples("kind"))):
        loader, other = ([{"x": part, name: labels} for part, labels in batches] for batches in (inside, outside))
        assert "nc5" in nc.analyze(Strict(), loader, layers="(root)", label_fn=label_fn, ood_loader=other)


def test_other_data_that_are_not_finite_are_refused_with_their_layer() -> None:
    inside, outside = planted()
    spoilt = [(one.clone(), labels) for one, labels in outside]
    spoilt[1][0][0, 0] = torch.inf
    with pytest.raises(nc.NonFiniteError, match=r"^`ood_loader`: layer .*: features are NaN or infinite"):
        nc.analyze(nn.Identity(), inside, ood_loader=spoilt)


@pytest.mark.parametrize("loader", [torch.zeros(4, 3), np.zeros((4, 3)), "cifar10", {"input": torch.zeros(4, 3)}])
def test_a_batch_is_no_loader_of_other_data(loader: Any) -> None:
    with pytest.raises(TypeError, match="`ood_loader` must be an iterable of batches, got"):
        nc.analyze(nn.Identity(), planted()[0], ood_loader=loader)
