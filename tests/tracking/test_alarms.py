"""Alarms go off on planted collapses and stay silent otherwise; wrong ones are refused before training."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import neurocollapse as nc

LABELS = torch.arange(60) % 3


class Planted(nn.Module):
    """Features of three classes whose spread is set from outside, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Identity(), nn.Linear(3, 3)
        self.spread = 1.0
        self.noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs + self.spread * self.noise))


def followed(spreads: list[float], *alarms: Any, **options: Any) -> tuple[nc.FeatureTracker, list[str]]:
    """A run with these spreads, one per step, and what its alarms warned of."""
    model = Planted()
    options = {"layers": ["leaves", "penultimate"], **options}
    tracker = nc.track(model, [(torch.eye(3)[LABELS], LABELS)], alarms=alarms, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", nc.AlarmWarning)
        for step, spread in enumerate(spreads):
            model.spread = spread
            tracker.record(step)
    return tracker, [str(one.message) for one in caught if one.category is nc.AlarmWarning]


COLLAPSING, STEADY = [1.0, 0.3, 0.05, 0.01, 0.01], [1.0, 0.9, 1.1, 1.0, 0.95]
COLLAPSE = "compression@penultimate < 0.01"


def test_a_planted_collapse_is_told_once_and_a_planted_other_run_never() -> None:
    tracker, told = followed(COLLAPSING, COLLAPSE)
    compression = tracker.to_dataset()["compression"].sel(layer="head@in").values
    assert [value < 0.01 for value in compression] == [False, False, True, True, True]
    assert len(told) == 1
    assert told[0].startswith(f"{COLLAPSE}: {compression[2]:.4g} at step 2, head@in")
    assert followed(STEADY, COLLAPSE)[1] == []


@pytest.mark.parametrize(
    ("expression", "planted", "other"),
    [
        ("compression@* > 5", [0.1, 3.0], [0.1, 0.3]),
        ("compression@last > 10", [1.0, 1e4], STEADY),
        ("separation@penultimate < 0.4", [0.1, 2.0], [0.1, 0.3]),
        ("within_trace@b* < 1e-12", [1.0, 0.0], STEADY),
        ("class_scatter@head@in >= 2", [0.1, 1.0], [0.1, 0.5]),
        ("cdnv@last < 1e-3", [1.0, 0.01], STEADY),
        ("ncm_error@penultimate > 0.3", [0.1, 2.0], [0.1, 0.5]),
    ],
)
def test_each_kind_of_condition_has_a_planted_case_of_either_kind(
    expression: str, planted: list[float], other: list[float]
) -> None:
    options = {"quantities": ["variability", "geometry", "collapse"]}
    (told,) = followed(planted, expression, **options)[1]
    assert " at step 1, " in told
    assert followed(other, expression, **options)[1] == []


@pytest.mark.parametrize(("sign", "told"), [(-1.0, 1), (1.0, 0)], ids=["away from the means", "along the means"])
def test_a_head_that_points_elsewhere_is_told(sign: float, told: int) -> None:
    model = Planted()
    model.spread = 0.01
    with torch.no_grad():
        nn.init.eye_(model.head.weight).mul_(sign)
    seen: list[nc.Checks] = []
    alarm = nc.Alarm("nc3@penultimate > 0.5", action=seen.append)
    tracker = nc.track(model, [(torch.eye(3)[LABELS], LABELS)], alarms=[alarm], layers=["penultimate"])
    tracker.record(0)
    assert len(seen) == told


def test_patience_counts_records_in_a_row() -> None:
    spreads = [1.0, 0.01, 1.0, 0.01, 0.01, 0.01, 1.0, 0.01, 0.01]
    _, told = followed(spreads, nc.Alarm(COLLAPSE, patience=2))
    assert [line.split(" at ")[1] for line in told] == [
        "step 4, head@in (2 records in a row)",
        "step 8, head@in (2 records in a row)",
    ]
    assert followed(spreads, nc.Alarm(COLLAPSE, patience=4))[1] == []


def test_stop_asks_training_to_stop_and_a_function_is_called() -> None:
    seen: list[nc.Checks] = []
    tracker, told = followed(COLLAPSING, nc.Alarm(COLLAPSE, action="stop"))
    assert tracker.should_stop
    assert len(told) == 1
    tracker, told = followed(COLLAPSING, nc.Alarm(COLLAPSE, action=seen.append))
    assert not tracker.should_stop
    assert told == []
    assert [one.findings[0].where for one in seen] == ["step 2, head@in"]
    assert not followed(STEADY, nc.Alarm(COLLAPSE, action="stop"))[0].should_stop


def test_a_continued_run_remembers_the_records_before(tmp_path) -> None:
    model = Planted()
    model.spread = 0.01
    told = []
    for step in range(3):
        alarm = nc.Alarm(COLLAPSE, patience=3, action=lambda found: told.append(found.findings[0].where))
        tracker = nc.track(
            model, [(torch.eye(3)[LABELS], LABELS)], path=tmp_path / "run.nc", alarms=[alarm], layers=["penultimate"]
        )
        tracker.record(step)
    assert told == ["step 2, head@in"]


@pytest.mark.parametrize(
    ("alarms", "error", "message"),
    [
        (["compression@penultimate"], ValueError, "is no expression; write QUANTITY@LAYER OP NUMBER"),
        (["compresion@last < 1"], ValueError, "no quantity 'compresion'; did you mean 'compression'"),
        (["nc4@last < 1"], ValueError, "no quantity 'nc4'"),
        (["compression@haed < 1"], ValueError, "no layer 'haed'; did you mean 'head'"),
        (["compression@layers.* < 1"], ValueError, "there are body, head@in, head"),
        ([0.5], TypeError, "`alarms` must hold Alarm or expressions, got float"),
        ("compression@last < 1", TypeError, "`alarms` must be a list"),
    ],
)
def test_wrong_alarms_are_refused_before_training(alarms: Any, error: type[Exception], message: str) -> None:
    model = Planted()
    with pytest.raises(error, match=message) as caught:
        nc.track(model, [(torch.eye(3)[LABELS], LABELS)], alarms=alarms, layers=["leaves", "penultimate"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "`patience` must be an integer of at least 1, got 0"),
        ({"action": "shout"}, "`action` must be one of 'warn', 'stop', got 'shout'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nc.Alarm(COLLAPSE, **options)


def test_quantities_of_a_second_pass_and_probes_can_be_watched() -> None:
    options = {"quantities": ["compression", "nc4"], "probes": True}
    _, told = followed([1.0, 0.01], "nc4@penultimate > 2", "probe_accuracy_train@penultimate > 0.9", **options)
    assert len(told) == 1
