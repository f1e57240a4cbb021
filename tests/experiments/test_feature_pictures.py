"""Pictures of features: what they show is measured, and claims fail where it is not there."""

import matplotlib.pyplot as plt
import pytest

import neurocollapse as nc
from neurocollapse.experiments import Workplace
from neurocollapse.experiments.classifiers.feature_pictures import EXPERIMENT, FeaturePictures, claims
from neurocollapse.experiments.experiment import Outcome
from neurocollapse.metrics import compression
from neurocollapse.statistics import ClassMoments

TINY = FeaturePictures(width=96, init_scale=0.5, epochs=25, learning_rate=1e-3, num_samples=150, seed=1)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return EXPERIMENT(TINY, workplace=Workplace(progress=False))


def test_the_classes_separate_and_then_shrink(outcome):
    assert outcome.status == "holds", outcome
    assert float(outcome.dataset["train_accuracy"]) > 0.98


def test_the_points_are_those_of_the_pictured_layers(outcome):
    dataset = outcome.dataset
    assert dataset["points"].shape == (2, 4, 150, 2)
    for method in ("pca", "tsne"):
        points = dataset["points"].sel(embedding=method, layer=7).values
        expected = compression(ClassMoments.from_features(points, dataset["label"].values))
        assert float(dataset["picture_compression"].sel(embedding=method, layer=7)) == pytest.approx(expected)


def test_the_figure_is_drawn_from_the_file_alone(outcome, tmp_path):
    nc.save(outcome.dataset, tmp_path / "pictures.nc")
    loaded = nc.open(tmp_path / "pictures.nc")
    assert loaded.equals(outcome.dataset)
    figure = EXPERIMENT.draw(loaded)
    assert [ax.get_title().split(", D")[0] for ax in figure.axes[:2]] == ["PCA, input", "PCA, layer 1"]
    assert len(figure.axes) == 8
    plt.close(figure)


def test_each_claim_fails_where_nothing_separates_or_shrinks(outcome):
    dataset = outcome.dataset
    flat = dataset.assign(
        ncm_accuracy=dataset["ncm_accuracy"] * 0.5,
        separation=dataset["separation"] * 0.0,
        compression=("layer", [1.0, 1.1, 1.0, 1.0]),
        picture_compression=dataset["picture_compression"] * 0.0 + 1.0,
    )
    assert {verdict.outcome for verdict in claims(flat)} == {"violated"}


def test_an_untrained_network_leaves_the_assumptions_unmet(outcome):
    untrained = outcome.dataset.assign(train_accuracy=0.4)
    assert {verdict.outcome for verdict in claims(untrained)} == {"assumptions unmet"}


@pytest.mark.parametrize("pictured", [(0, 1, 7), (0, 3), (3, 7), (0, 3, 9), (0, 7, 3), ()])
def test_layers_before_at_and_after_the_last_nonlinear_one_are_needed(pictured):
    with pytest.raises(ValueError, match="`pictured` must"):
        FeaturePictures(pictured=pictured)


def test_a_missing_method_is_missed_before_training():
    with pytest.raises(ValueError, match="`method` must be one of 'pca', 'tsne', 'umap', got 'mds'"):
        EXPERIMENT(FeaturePictures(methods=("mds",), epochs=10**9), workplace=Workplace(progress=False))
