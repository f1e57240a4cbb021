"""One class, absent classes, two classes and few samples are said, and not otherwise."""

import json
import warnings

import pytest
import torch
from torch import Tensor

import neurocollapse as nc
from neurocollapse.metrics import SampleWarning, compression
from neurocollapse.metrics.unbiased import compression_unbiased
from neurocollapse.statistics import ClassMoments


def drawn(num_classes: int, each: int, *, seed: int = 0, spread: float = 3.0, features: int = 64) -> ClassMoments:
    """Gaussian classes about Gaussian means: D tends to `spread`² K/(K−1) with many features."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(each)
    means = torch.randn(num_classes, features, generator=source, dtype=torch.float64)
    noise = torch.randn(len(labels), features, generator=source, dtype=torch.float64)
    return ClassMoments.from_features(means[labels] + spread * noise, labels)


def notes(moments: ClassMoments | dict[str, ClassMoments], **options: str) -> list[str]:
    """What a measurement warns of; the dataset says the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        given = moments if isinstance(moments, dict) else {"fc": moments}
        dataset = nc.measure(given, **options)  # type: ignore[arg-type]
    said = [str(one.message) for one in caught if issubclass(one.category, SampleWarning)]
    assert json.loads(dataset.attrs["warnings"]) == said
    assert all("\n" not in line and len(line) < 300 for line in said)
    return said


def test_many_samples_of_many_classes_are_not_remarked_on() -> None:
    assert notes(drawn(10, 1000)) == []


@pytest.mark.parametrize("each", [2, 5, 20])
def test_few_samples_are_warned_of_with_about_the_right_number(each: int) -> None:
    (note,) = notes(drawn(10, each))
    assert note.startswith(f"few samples per class (smallest {each}, median {each}): D is ")
    assert " at fc, about " in note


def test_a_single_sample_of_a_class_is_warned_of() -> None:
    (note,) = notes(drawn(10, 1))
    assert note == (
        "few samples per class (smallest 1, median 1): a single sample shows no spread within its class, so D reads "
        "too low"
    )


def test_classes_that_are_noise_are_called_so() -> None:
    features = [[-1.0], [1.0], [-0.9], [1.1], [-0.8], [1.2]]
    (note,) = notes(ClassMoments.from_features(features, [0, 0, 1, 1, 2, 2]))
    assert note.endswith("and its class means cannot be told from noise")


def test_the_worst_of_several_layers_is_named() -> None:
    (note,) = notes({"early": drawn(10, 20), "late": drawn(10, 20, spread=0.1)})
    assert " at early, about " in note
    assert note.endswith("; this is the worst of 2 layers")


def test_classes_of_different_size_say_which_weighting_was_taken() -> None:
    """Half of the spread is in a class of 4,000 samples, and none in one of 500, unless all classes count the same."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([4000, 1000, 500]))
    deviation = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)[labels].unsqueeze(1)
    noise = torch.randn(5500, 6, generator=generator, dtype=torch.float64)
    moments = ClassMoments.from_features(2 * torch.eye(3, 6)[labels] + deviation * noise, labels)
    equal, papers = (compression(moments, weighting=one) for one in ("equal", "papers"))
    assert notes(moments) == [
        f"500 to 4000 samples per class, all with weight 1/K: D is {equal:.3g} at fc, and {papers:.3g} with 1/N within "
        'and 1/K between; choose by weighting="equal" or "papers"'
    ]
    for weighting in ("equal", "frequency", "papers"):
        assert notes(moments, weighting=weighting) == []  # it was chosen
    assert nc.measure({"fc": moments})["compression"].item() == pytest.approx(equal, rel=1e-14)


def test_nearly_balanced_classes_are_not_remarked_on() -> None:
    whole = drawn(10, 1000)
    count = whole.count - torch.arange(10)
    scaled = whole.offset_sum * (count / whole.count).unsqueeze(1), whole.offset_square * count / whole.count
    assert notes(ClassMoments(count, whole.reference, *scaled)) == []


def test_collapsed_classes_need_no_more_samples() -> None:
    assert notes(ClassMoments.from_features(torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4))) == []


def test_the_estimate_leaves_many_samples_alone() -> None:
    moments = drawn(5, 4000)
    assert compression_unbiased(moments) == pytest.approx(compression(moments), rel=0.01)


@pytest.mark.parametrize(("labels", "said"), [([0] * 40, "1 of 2 classes (1)"), ([1] * 40, "1 of 2 classes (0)")])
def test_one_class_is_called_undefined(labels: list[int], said: str) -> None:
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    absent, one = notes(ClassMoments.from_features(features, labels, num_classes=2))
    assert absent == f"no samples of {said}: they are left out of every number, and K is 1"
    assert one == "only one class has samples: D, separation and the angles between class means are undefined"


def test_absent_classes_are_named_but_not_all_of_a_thousand() -> None:
    (note, *_) = notes(drawn(3, 1000).padded(1000))
    assert note == (
        "no samples of 997 of 1000 classes (3, 4, 5, 6, 7, 8 and 991 more): they are left out of every number, and K "
        "is 3"
    )


def two_classes() -> Tensor:
    """Forty samples whose classes hardly differ."""
    return torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)) + (torch.arange(4000) % 2).unsqueeze(1)


def test_two_classes_are_warned_of_wherever_the_separation_is_shown(tmp_path: object) -> None:
    moments = ClassMoments.from_features(two_classes(), torch.arange(4000) % 2)
    (note,) = notes(moments)
    assert note.startswith(
        "with two classes the centred class means are opposite, whatever the features: separation S is"
    )
    dataset = nc.measure({"a": moments, "b": moments})
    assert dataset["separation"].values == pytest.approx([0.0, 0.0], abs=1e-12)
    assert "always 0 for two classes" in dataset["separation"].attrs["convention"]
    words = nc.plot.separation(dataset).get_ylabel().split()
    assert " ".join(words).endswith("where S is always 0 for two classes")
    page = nc.report({"net": dataset}, f"{tmp_path}/report.html")
    assert "of two classes it is always 0" in page.read_text()


def test_three_classes_are_not_taken_for_two() -> None:
    dataset = nc.measure({"a": drawn(3, 1000), "b": drawn(3, 1000)})
    assert "two classes" not in nc.plot.separation(dataset).get_ylabel()


def test_an_analysis_says_it_too() -> None:
    batches = [(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3)]
    with pytest.warns(SampleWarning, match="few samples per class"):
        nc.analyze(torch.nn.Identity(), batches, progress=False)
