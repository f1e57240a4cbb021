"""Row 11: several processes give the answer of one, and samples that a sampler repeats count once."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import neurocollapse as nc
from tests.ranks import run_ranks

DRIVER = Path(__file__).with_name("two_ranks.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
WORLD_SIZE = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have written."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(DRIVER, WORLD_SIZE, folder)
    return folder


@pytest.mark.parametrize("name", driver.CASES)
def test_two_ranks_count_each_sample_once(folder: Path, name: str) -> None:
    case = driver.CASES[name]
    options = {key: case[key] for key in ("precision", "covariance") if key in case}
    inputs, labels = driver.samples(case["num_samples"])
    expected = nc.collect(driver.build(), [(inputs, labels)], **options)
    found = nc.MomentCollection.load(folder / name)
    assert list(found) == list(expected)
    assert next(iter(found.values())).num_samples == case["num_samples"]
    # Batches of other sizes move the model's own float32 matrix products by about 1e-7 of their size
    tolerance = 1e-6
    for layer in expected:
        assert found[layer].count.tolist() == expected[layer].count.tolist()
        torch.testing.assert_close(
            found[layer].mean, expected[layer].mean, rtol=tolerance, atol=tolerance, equal_nan=True
        )
        torch.testing.assert_close(found[layer].scatter, expected[layer].scatter, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", driver.CASES)
def test_a_second_pass_in_parts_adds_up_to_that_of_one_process(folder: Path, name: str) -> None:
    case = driver.CASES[name]
    options = {key: case[key] for key in ("precision", "covariance") if key in case}
    loader = [driver.samples(case["num_samples"])]
    expected = nc.analyze(driver.build(), loader, quantities=driver.quantities(), num_classes=4, **options)
    found = nc.open(folder / f"{name}.nc")
    np.testing.assert_allclose(found["distances"], expected["distances"], rtol=1e-6)  # as above
    assert found["hits"].equals(expected["hits"])
    for uncertain in ("compression_corrected", "compression_interval", "decay_slope_interval"):
        np.testing.assert_allclose(found[uncertain], expected[uncertain], rtol=1e-5)  # errors of variances, twice those
        one_class_is_too_small = case["num_samples"] < 12
        assert bool(expected[uncertain].isnull().all()) == one_class_is_too_small


@pytest.mark.parametrize("precision", ["single", "double"])
def test_each_rank_has_a_resume_file_of_its_own(folder: Path, precision: str) -> None:
    name = "padded" if precision == "single" else "double"
    assert sorted(path.name for path in folder.glob(f"{name}.state*")) == [f"{name}.state.rank{r}" for r in range(2)]
    assert len(list(folder.glob(f"{name}.sums.second.rank?"))) == 2


@pytest.mark.parametrize("name", driver.WRAPPERS)
def test_wrapped_models_are_measured_like_bare_ones(folder: Path, name: str) -> None:
    expected, found = nc.collect(driver.build(), [driver.samples(12)]), nc.MomentCollection.load(folder / name)
    assert list(found) == list(expected)  # no prefix of the wrapper
    for layer in expected:
        torch.testing.assert_close(found[layer].mean, expected[layer].mean, rtol=1e-12, atol=1e-12)
