"""What pure functions are given: numbers in any container, and one line for what they cannot take."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import neurocollapse as nc
from neurocollapse import metrics
from neurocollapse.metrics import spectrum
from neurocollapse.statistics import ClassMoments

OF_MOMENTS = sorted(
    name
    for name in metrics.__all__
    if inspect.isfunction(function := getattr(metrics, name))
    and next(iter(inspect.signature(function).parameters)) == "moments"
    and name not in ("measure", "layer_tree")
)
OF_SPECTRA = ("participation_ratio", "stable_rank", "spectral_decay", "covariance_effective_rank")
FEATURES = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(12) % 3
MOMENTS = ClassMoments.from_features(FEATURES, LABELS, covariance=True)


@pytest.mark.parametrize("given", [None, "fc", FEATURES, FEATURES.numpy()])
@pytest.mark.parametrize("name", OF_MOMENTS)
def test_what_is_no_class_moments_is_refused_in_one_line(name: str, given: Any) -> None:
    function = getattr(metrics, name)
    others = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty][1:]
    known = {"reader": None, "shots": 1, "labels": LABELS}
    rest = [known.get(one.name, FEATURES) for one in others]
    with pytest.raises(TypeError, match=r"^`moments` must be ClassMoments, got ") as caught:
        function(given, *rest)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("make", [torch.as_tensor, np.asarray, lambda values: values])
def test_numbers_may_come_in_any_container(make: Callable[[list[Any]], Any]) -> None:
    features = make(FEATURES.tolist())
    assert metrics.cka(features, features) == pytest.approx(1, rel=1e-6)
    assert metrics.nc5(MOMENTS, features) == pytest.approx(metrics.nc5(MOMENTS, FEATURES), rel=1e-5)
    assert metrics.neco(MOMENTS, features).numpy() == pytest.approx(metrics.neco(MOMENTS, FEATURES).numpy(), rel=1e-5)
    assert metrics.dead_share(features) == 0
    assert metrics.nc4(MOMENTS, features, features) == metrics.nc4(MOMENTS, FEATURES, FEATURES)
    assert metrics.ncm_error(MOMENTS, features, LABELS.tolist()) == metrics.ncm_error(MOMENTS, FEATURES, LABELS)
    assert metrics.max_softmax(features).shape == metrics.mahalanobis(MOMENTS, features).shape == (12,)
    for name in OF_SPECTRA:
        function = getattr(spectrum, name)
        assert function(make([1.0, 4.0, 2.0])) == pytest.approx(function(np.array([4.0, 2.0, 1.0])), rel=1e-6)


def test_numbers_in_lists_are_double() -> None:
    assert metrics.probe_depth([0.95, 1.0]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.cka(FEATURES[0], FEATURES[0]),
            r"`features` must have shape \(samples, features\), got \(4,\)",
        ),
        (lambda: metrics.nc5(MOMENTS, FEATURES[:, :2]), "`others` must have the 4 features of `moments`, got 2"),
        (lambda: metrics.neco(MOMENTS, FEATURES[:, :2]), "`features` must have the 4 features of `moments`, got 2"),
        (lambda: metrics.mahalanobis(MOMENTS, FEATURES[0]), "`features` must have shape"),
        (lambda: metrics.dormant_share(FEATURES, threshold=-1), "`threshold` must be a number of at least 0"),
        (lambda: metrics.effective_depth([[0.5, 0.3]]), "`errors` must hold one number for each layer"),
        (lambda: metrics.probe_depth(0.5), "`accuracies` must hold one number for each layer"),
        (lambda: metrics.geometric_decay(3.0), "`values` must hold one number for each layer"),
        (lambda: metrics.stable_rank([[1.0]]), "`values` must hold one number for each feature"),
        (lambda: metrics.ncm_error(MOMENTS, FEATURES, LABELS + 1), r"`labels` must hold integers in \[0, 3\)"),
        (lambda: metrics.ncm_error(MOMENTS, FEATURES, LABELS[1:]), "`labels`"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_name(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["abc", [[1.0], [2.0, 3.0]], object()])
def test_what_is_no_array_is_refused_by_name(given: Any) -> None:
    for call in (metrics.cka, metrics.dead_share, metrics.max_softmax, metrics.probe_depth, metrics.decay_ratio):
        with pytest.raises(TypeError, match="must be an array of numbers, got"):
            call(given, given) if call is metrics.cka else call(given)


def test_class_cka_takes_what_collect_returns() -> None:
    collection = nc.collect(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()), [(FEATURES.float(), LABELS)])
    expected = metrics.class_cka(list(collection.values()))
    np.testing.assert_array_equal(metrics.class_cka(collection), expected)
    for given in ([], FEATURES, "fc"):
        with pytest.raises(TypeError, match="`moments` must be ClassMoments"):
            metrics.class_cka(given)
