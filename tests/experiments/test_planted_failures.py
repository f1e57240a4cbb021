"""Every claim of every experiment can fail: some dataset made by hand turns it to "violated"."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

from neurocollapse.experiments import EXPERIMENTS, restored
from neurocollapse.experiments.experiment import SOFTWARE
from tests.experiments import kept
from tests.experiments.plants import PLANTS, level, times


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_is_violated_by_a_planted_dataset(name: str) -> None:
    dataset = kept.opened(name)
    claims = kept.judged(dataset)
    assert name in PLANTS, "plant datasets that contradict its claims in tests/experiments/plants.py"
    violated: set[int] = set()
    for plant in (xr.Dataset.copy, *PLANTS[name]):  # what the run itself contradicts can fail, too
        found = kept.judged(plant(dataset))
        assert [one.reference for one in found] == [one.reference for one in claims]  # words may hold changing counts
        violated |= {place for place, verdict in enumerate(found) if verdict.outcome == "violated"}
    spared = [verdict.claim for place, verdict in enumerate(claims) if place not in violated]
    assert not spared, f"no plant contradicts them: {spared}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_kept_is_of_the_small_setting_as_it_is_now(name: str) -> None:
    dataset = kept.opened(name)
    setting = json.loads(json.dumps(dataclasses.asdict(EXPERIMENTS[name].small)))
    again = "run it at its small scale and keep the outcome: python -m tests.experiments.kept FOLDER"
    assert json.loads(dataset.attrs["setting"]) == setting, again
    assert len(restored(dataset).verdicts) == len(kept.judged(dataset)) > 0


def test_every_plant_is_of_an_experiment() -> None:
    assert set(PLANTS) == set(EXPERIMENTS)


def test_a_claim_that_nothing_contradicts_is_found() -> None:
    dataset = kept.opened("scale-tradeoff")
    flat = kept.judged(level("init_scale", "slope")(dataset))
    spared = [verdict.claim for verdict in flat if verdict.outcome != "violated"]
    assert len(spared) == 5
    assert all("steps" in claim for claim in spared)


def test_claims_that_a_theorem_settles_are_called_checks_of_the_software() -> None:
    for name in EXPERIMENTS:
        for verdict in kept.judged(kept.opened(name)):
            if "in this documentation" in verdict.reference or verdict.reference == "arithmetic":
                assert verdict.claim.startswith(SOFTWARE) or "corollary" in verdict.reference, verdict.claim


def test_a_plant_changes_nothing_but_what_it_names() -> None:
    dataset = xr.Dataset({"a": ("x", [1.0, 2.0]), "b": ("x", [3.0, 4.0])})
    changed = times(2, "a", x=-1)(dataset)
    np.testing.assert_array_equal(changed["a"], [1.0, 4.0])
    np.testing.assert_array_equal(changed["b"], dataset["b"])
    np.testing.assert_array_equal(dataset["a"], [1.0, 2.0])
