"""What may mislead in the probes' results is said, and errors name the loader that they come from."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import neurocollapse as nc

ACCURACIES = ("probe_accuracy_train", "probe_accuracy_test", "ncm_accuracy_train", "ncm_accuracy_test")
LABELS = torch.arange(60) % 3
INPUTS = 2 * torch.eye(3, 8)[LABELS] + 0.1 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
TRAIN = [(INPUTS, LABELS)]


def notes_of(dataset: xr.Dataset) -> list[str]:
    return json.loads(dataset.attrs["warnings"])


class EarlyExit(nn.Module):
    """Calls its second layer for large batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.a(inputs)
        return self.b(hidden) if len(inputs) > 10 else hidden


class Repeated(nn.Module):
    """Calls its layer three times, or once a sample where these are fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        for _ in range(min(len(inputs), 3)):
            inputs = self.a(inputs)
        return inputs


@pytest.mark.parametrize(("kind", "absent"), [(EarlyExit, "b"), (Repeated, "a#2")])
def test_layers_that_do_not_fire_on_the_test_loader_have_no_probes(kind: type[nn.Module], absent: str) -> None:
    dataset = nc.analyze(kind(), TRAIN, probes=True, test_loader=[(INPUTS[:2], LABELS[:2])])
    assert notes_of(dataset) == [
        f"the model gave no features of {absent} in the probes' pass over test_loader: their probes are undefined"
    ]
    undefined = np.isnan(dataset["probe_accuracy_test"])
    assert dataset["layer"].values[undefined].tolist() == [absent]
    assert dataset["compression"].notnull().all()
    assert dataset["numerical_rank"].dtype == np.float64


def test_layers_that_are_called_once_instead_of_often_have_no_probes() -> None:
    dataset = nc.analyze(Repeated(), TRAIN, probes=True, test_loader=[(INPUTS[:1], LABELS[:1])])
    assert dataset["layer"].values.tolist() == ["a#0", "a#1", "a#2"]
    assert np.isnan([dataset[name] for name in ACCURACIES]).all()
    assert notes_of(dataset)[0].startswith("the model gave no features of a#0, a#1, a#2 in the probes' pass over test")


def test_chosen_layers_that_do_not_fire_on_the_test_loader_are_an_error_that_names_it() -> None:
    with pytest.raises(nc.NeverFiredError, match=r"^`test_loader`: layer 'b': never called"):
        nc.analyze(EarlyExit(), TRAIN, layers=["a", "b"], probes=True, test_loader=[(INPUTS[:6], LABELS[:6])])


def test_too_few_samples_to_hold_one_out_leave_a_note() -> None:
    dataset = nc.analyze(nn.Linear(8, 4), TRAIN, probes=True, probe_samples=3)
    assert np.isnan(dataset["probe_accuracy_test"].item())
    assert notes_of(dataset) == [
        "no sample is held out to test the probes: no class has two of the 3 kept samples; raise probe_samples or pass "
        "test_loader"
    ]


def test_test_classes_that_training_lacks_leave_a_note() -> None:
    dataset = nc.analyze(nn.Linear(8, 4), TRAIN, probes=True, num_classes=8, test_loader=[(INPUTS, LABELS + 3)])
    assert dataset["probe_accuracy_test"].item() == 0.0
    assert notes_of(dataset)[-1] == (
        "test_loader has classes that the probes are not trained on, whose samples count as wrong: 3, 4, 5"
    )


def test_rows_that_are_left_out_are_counted_by_layer_and_loader() -> None:
    spoilt = INPUTS[:5].clone()
    spoilt[1:3] = float("nan")
    dataset = nc.analyze(nn.Identity(), TRAIN, probes=True, test_loader=[(spoilt, LABELS[:5])])
    assert notes_of(dataset) == ['probes leave out rows of test_loader that are not finite: {"(root)": 2}']
    assert dataset["ncm_accuracy_test"].item() == 1.0


def test_results_that_do_not_mislead_leave_no_note() -> None:
    assert notes_of(nc.analyze(nn.Linear(8, 4), TRAIN, probes=True)) == []


def test_a_seed_is_named_only_where_samples_were_split() -> None:
    assert "probe_seed" not in nc.analyze(nn.Linear(8, 4), TRAIN, probes=True, test_loader=TRAIN).attrs


@pytest.mark.parametrize("seed", [np.int64(3), torch.tensor(3)])
def test_seeds_of_other_kinds_become_integers(tmp_path: Any, seed: Any) -> None:
    model = nn.Linear(8, 4)
    dataset = nc.analyze(model, TRAIN, probes=True, probe_seed=seed, probe_samples=torch.tensor(50))
    assert type(dataset.attrs["probe_seed"]) is int
    assert dataset["probe_accuracy_test"].equals(
        nc.analyze(model, TRAIN, probes=True, probe_seed=3, probe_samples=50)["probe_accuracy_test"]
    )
    assert nc.open(nc.save(dataset, tmp_path / "seeded.nc")).identical(dataset)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], r"`test_loader`: the loader gave no samples"),
        ([(INPUTS, LABELS + 1)], r"`test_loader`: `labels` must hold integers in \[0, 3\)"),
        ([INPUTS], r"`test_loader`: a batch must be a pair"),
    ],
)
def test_errors_say_which_loader_is_meant(batches: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        nc.analyze(nn.Linear(8, 4), TRAIN, probes=True, test_loader=batches)
    assert "\n" not in str(caught.value)
