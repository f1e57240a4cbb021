"""Every variant of separation has the limits of the table in its docstring."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neurocollapse.metrics import discrimination, separation
from neurocollapse.statistics import ClassMoments

EXACT = 1e-13
VARIANTS = list(itertools.product([True, False], [True, False]))
variants = pytest.mark.parametrize(("centred", "absolute"), VARIANTS)


def of_means(means: Tensor) -> ClassMoments:
    """Moments of one sample per class."""
    return ClassMoments.from_features(means, torch.arange(len(means)))


def random_means(num_classes: int = 5, num_features: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64) + 0.3


def simplex(num_classes: int) -> Tensor:
    """The vertices of a regular simplex about the origin, one per class."""
    return torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes


def naive(means: Tensor, *, centred: bool, absolute: bool) -> float:
    """One minus the largest cosine, pair by pair."""
    centre = sum(list(means)) / len(means) if centred else torch.zeros_like(means[0])
    cosines = []
    for one, two in itertools.combinations([mean - centre for mean in means], 2):
        cosine = float(one @ two) / math.sqrt(float(one @ one) * float(two @ two))
        cosines.append(abs(cosine) if absolute else cosine)
    return 1 - max(cosines)


@variants
@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 3), (5, 8), (12, 4), (30, 200)])
def test_separation_equals_the_naive_one(num_classes: int, num_features: int, centred: bool, absolute: bool) -> None:
    means = random_means(num_classes, num_features)
    expected = naive(means, centred=centred, absolute=absolute)
    assert separation(of_means(means), centred=centred, absolute=absolute) == pytest.approx(expected, abs=EXACT)


@variants
@pytest.mark.parametrize("num_classes", [3, 4, 10])
def test_limits_for_orthogonal_class_means(num_classes: int, centred: bool, absolute: bool) -> None:
    moments = of_means(torch.eye(num_classes + 2, dtype=torch.float64)[:num_classes] * 7)
    share = 1 / (num_classes - 1)
    expected = {(True, True): 1 - share, (True, False): 1 + share, (False, True): 1.0, (False, False): 1.0}
    found = separation(moments, centred=centred, absolute=absolute)
    assert found == pytest.approx(expected[centred, absolute], abs=EXACT)


@pytest.mark.parametrize("num_classes", [3, 4, 10])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_limits_for_a_simplex_of_centred_class_means(num_classes: int, offset: float) -> None:
    moments = of_means(simplex(num_classes) + offset)
    assert separation(moments) == pytest.approx(1 - 1 / (num_classes - 1), abs=1e-12)
    assert separation(moments, absolute=False) == pytest.approx(1 + 1 / (num_classes - 1), abs=1e-12)


@pytest.mark.parametrize("num_classes", [3, 4, 10])
def test_no_means_are_further_apart_than_a_simplex(num_classes: int) -> None:
    largest = 1 + 1 / (num_classes - 1)
    for seed in range(20):
        assert separation(of_means(random_means(num_classes, 20, seed)), absolute=False) <= largest + EXACT


@pytest.mark.parametrize("num_classes", [3, 4, 10])
def test_discrimination_of_a_simplex_depends_on_its_centre(num_classes: int) -> None:
    about_origin = discrimination(of_means(simplex(num_classes)))
    assert about_origin == pytest.approx(1 + 1 / (num_classes - 1), abs=EXACT)
    assert discrimination(of_means(simplex(num_classes) + 100.0)) < 1e-3


def test_two_classes_are_always_opposite_about_their_mean() -> None:
    for seed in range(20):
        moments = of_means(random_means(2, 7, seed))
        assert separation(moments) == pytest.approx(0.0, abs=1e-14)
        assert separation(moments, absolute=False) == pytest.approx(2.0, abs=1e-14)
        assert separation(moments) >= 0.0
        assert separation(moments, absolute=False) <= 2.0


def test_handmade_angles() -> None:
    moments = of_means(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 4.0]], dtype=torch.float64))
    assert separation(moments, centred=False, absolute=False) == pytest.approx(1 - 0.8, abs=EXACT)  # 2 and 3: 4/5
    moments = of_means(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-4.0, 3.0]], dtype=torch.float64))
    assert separation(moments, centred=False, absolute=False) == pytest.approx(1 - 0.6, abs=EXACT)  # 2 and 3: 3/5
    assert separation(moments, centred=False, absolute=True) == pytest.approx(1 - 0.8, abs=EXACT)  # 1 and 3: −4/5


def test_discrimination_is_the_uncentred_signed_variant() -> None:
    for seed in range(5):
        moments = of_means(random_means(seed=seed))
        assert discrimination(moments) == separation(moments, centred=False, absolute=False)


@variants
def test_rotation_scale_and_permutation_of_labels_change_nothing(centred: bool, absolute: bool) -> None:
    means = random_means()
    options = {"centred": centred, "absolute": absolute}
    expected = separation(of_means(means), **options)
    rotation, _ = torch.linalg.qr(random_means(8, 8, seed=4))
    for other in (means @ rotation, 1e-3 * means, -5.0 * means, means.flip(0), torch.cat([means, 0 * means], dim=1)):
        assert separation(of_means(other), **options) == pytest.approx(expected, abs=EXACT)


def test_only_the_centred_variants_ignore_where_the_origin_is() -> None:
    means = random_means()
    for absolute in (True, False):
        options: dict[str, Any] = {"absolute": absolute}
        moved, plain = separation(of_means(means + 3.0), **options), separation(of_means(means), **options)
        assert moved == pytest.approx(plain, abs=1e-12)
        moved = separation(of_means(means + 3.0), centred=False, **options)
        assert abs(moved - separation(of_means(means), centred=False, **options)) > 0.1


def test_only_the_class_means_count() -> None:
    means, generator = random_means(), torch.Generator().manual_seed(1)
    noise = torch.randn(5, 10, 8, generator=generator, dtype=torch.float64)
    features = (means.unsqueeze(1) + noise - noise.mean(dim=1, keepdim=True)).flatten(0, 1)
    spread = ClassMoments.from_features(features, torch.arange(5).repeat_interleave(10))
    assert separation(spread) == pytest.approx(separation(of_means(means)), abs=EXACT)


def test_class_sizes_do_not_count() -> None:
    means = random_means()
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 9, 3, 1, 20]))
    assert separation(ClassMoments.from_features(means[labels], labels)) == separation(of_means(means))


def test_absent_classes_are_left_out() -> None:
    means = random_means()
    sparse = ClassMoments.from_features(means, 2 * torch.arange(5), 12)
    for centred, absolute in VARIANTS:
        options = {"centred": centred, "absolute": absolute}
        assert separation(sparse, **options) == separation(of_means(means), **options)


@variants
def test_equal_directions_have_no_separation(centred: bool, absolute: bool) -> None:
    means = torch.tensor([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]], dtype=torch.float64)
    assert separation(of_means(means), centred=centred, absolute=absolute) == pytest.approx(0.0, abs=EXACT)


def test_a_mean_without_direction_makes_separation_undefined() -> None:
    about_centre = of_means(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
    for centred, absolute in VARIANTS:
        assert math.isnan(separation(about_centre, centred=centred, absolute=absolute))
    assert math.isnan(discrimination(about_centre))


@pytest.mark.parametrize("moments", [ClassMoments.empty(4, 3), of_means(torch.ones(1, 3))], ids=["none", "one"])
def test_fewer_than_two_classes_are_not_separated(moments: ClassMoments) -> None:
    for centred, absolute in VARIANTS:
        assert math.isnan(separation(moments, centred=centred, absolute=absolute))


def test_wide_layers_are_measured_in_column_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = of_means(random_means(5, 130))
    expected = [separation(moments, centred=centred, absolute=absolute) for centred, absolute in VARIANTS]
    monkeypatch.setattr("neurocollapse.statistics.moments.BLOCK_ELEMENTS", 50)
    found = [separation(moments, centred=centred, absolute=absolute) for centred, absolute in VARIANTS]
    assert found == pytest.approx(expected, abs=EXACT)
