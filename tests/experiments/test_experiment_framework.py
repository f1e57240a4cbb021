"""What every experiment shares: settings from text, a folder of finished parts, claims, and how outcomes are shown."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.experiments import EXPERIMENTS, Experiment, Workplace, changed, find, restored
from neurocollapse.experiments.experiment import at_least, at_most, near
from neurocollapse.experiments.settings import checked, replaced
from neurocollapse.theory import Verdict


@dataclass(frozen=True)
class Halving:
    """How often one is halved."""

    num_steps: int = 3
    factor: float = 0.5
    scales: tuple[float, ...] = (1.0, 2.0)
    names: tuple[str, ...] = ("a",)
    folder: str | None = None
    loud: bool = False
    seed: int = 0


def halve(setting: Halving, workplace: Workplace) -> xr.Dataset:
    """1, f, f², …"""
    values = [setting.factor**step for step in range(setting.num_steps + 1)]
    return workplace.part("values", lambda: xr.Dataset({"value": ("step", values)}))


def draw(dataset: xr.Dataset) -> Figure:
    """One line."""
    figure, axes = plt.subplots()
    axes.plot(dataset["value"])
    return figure


def claims(dataset: xr.Dataset) -> Sequence[Verdict]:
    """It falls to an eighth."""
    unmet = [] if dataset.attrs["num_steps"] == 3 else ["three steps"]
    return [near("value = 1/8", "arithmetic", float(dataset["value"][-1]), 0.125, unmet=unmet)]


HALVING = Experiment(
    "halving", "Halving shrinks.", "Arithmetic", Halving(), Halving(num_steps=4), ("1 s", "2 s"), halve, draw, claims
)


def test_a_claim_holds_is_violated_or_lacks_its_assumptions() -> None:
    assert HALVING().status == "holds"
    assert HALVING(Halving(factor=0.6)).status == "violated"
    assert HALVING(HALVING.setting("paper")).status == "assumptions unmet"


def test_the_setting_and_the_source_are_in_the_dataset(tmp_path: Path) -> None:
    dataset = HALVING(Halving(loud=True)).to_dataset()
    assert dataset.attrs["factor"] == 0.5
    assert dataset.attrs["source"] == "Arithmetic"
    assert dataset.attrs["status"] == "holds"
    reopened = nc.open(nc.save(dataset, tmp_path / "halving.nc"))
    assert reopened.attrs["loud"] == "True"
    assert reopened.attrs["folder"] == "None"
    assert list(reopened.attrs["scales"]) == [1.0, 2.0]


def test_the_dataset_says_how_long_the_run_took() -> None:
    assert 0 < HALVING().dataset.attrs["wall_seconds"] < 10


def test_a_resumed_run_does_not_pass_its_rest_off_as_the_whole_time(tmp_path: Path) -> None:
    workplace = Workplace(folder=tmp_path)
    assert "wall_seconds" in HALVING(workplace=workplace).dataset.attrs
    (tmp_path / "part.nc").touch()
    assert "wall_seconds" not in HALVING(workplace=workplace).dataset.attrs


def test_an_outcome_comes_back_from_its_file(tmp_path: Path) -> None:
    outcome = HALVING(Halving(factor=0.6, scales=(1.0,), folder="here"))
    again = HALVING.restored(nc.open(nc.save(outcome.to_dataset(), tmp_path / "halving.nc")))
    assert again.setting == outcome.setting
    assert again.verdicts == outcome.verdicts
    assert repr(again) == repr(outcome)


def test_a_dataset_of_another_experiment_or_version_is_not_restored() -> None:
    dataset = HALVING().to_dataset()
    with pytest.raises(ValueError, match="of experiment 'doubling', not of 'halving'"):
        HALVING.restored(dataset.assign_attrs(experiment="doubling"))
    with pytest.raises(ValueError, match="run it again"):
        HALVING.restored(dataset.assign_attrs(setting='{"old_field": 3}'))
    with pytest.raises(ValueError, match="there is no experiment 'halving'"):
        restored(dataset)


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", '{"num_steps": "abc"}', '{"factor": null}', '{"scales": 2.0}', '{"seed": -1}']
)
def test_a_damaged_setting_is_not_restored(text: str) -> None:
    with pytest.raises(ValueError, match="does not hold a setting of halving as it is now; run it again"):
        HALVING.restored(HALVING().to_dataset().assign_attrs(setting=text))


@pytest.mark.parametrize("harm", [lambda d: d.drop_vars("value"), lambda d: d.isel(step=slice(0))])
def test_a_dataset_without_the_measurements_is_not_restored(harm: Callable[[xr.Dataset], xr.Dataset]) -> None:
    with pytest.raises(ValueError, match="does not hold what halving measures now; run it again"):
        HALVING.restored(harm(HALVING().to_dataset()))


def test_an_outcome_shows_every_claim() -> None:
    outcome = HALVING(Halving(factor=0.6))
    assert "value = 1/8" in repr(outcome)
    assert "0.1212 to 0.1288" in repr(outcome)
    assert repr(outcome).endswith("Outcome: violated")
    assert "<td" in outcome._repr_html_()
    assert json.loads(outcome.to_json())["status"] == "violated"
    assert "unmet: three steps" in repr(HALVING(HALVING.paper))


def test_an_outcome_is_a_section_of_the_report(tmp_path: Path) -> None:
    page = nc.report({"halving": HALVING()}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Experiment: halving" in page
    assert "Halving shrinks. Source: Arithmetic." in page
    assert page.count("<svg") == 1
    assert not plt.get_fignums()


def test_a_figure_is_saved_in_the_format_of_its_name(tmp_path: Path) -> None:
    HALVING().save_figure(tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="xyz"):
        HALVING().save_figure(tmp_path / "figure.xyz")
    assert not plt.get_fignums()


def test_texts_from_files_are_not_cut_where_they_are_joined_to_shorter_ones(tmp_path: Path) -> None:
    parts = [nc.save(xr.Dataset({"name": word}), tmp_path / f"{word}.nc") for word in ("ab", "abcdef")]
    joined = xr.concat([nc.open(path) for path in parts], "part")
    assert nc.open(nc.save(joined, tmp_path / "joined.nc"))["name"].values.tolist() == ["ab", "abcdef"]
    nc.save(xr.DataTree.from_dict({"first": xr.Dataset({"name": "ab"})}), tmp_path / "tree.nc")
    tree = nc.open(tmp_path / "tree.nc")
    assert not any(variable.encoding for node in tree.subtree for variable in node.variables.values())


def test_finished_parts_are_not_computed_again(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    HALVING(workplace=Workplace(folder=folder))
    kept = nc.open(folder / "values.nc")
    nc.save((kept * 3).assign_attrs(kept.attrs), folder / "values.nc")
    again = HALVING(workplace=Workplace(folder=folder))
    assert again.dataset["value"].values[0] == 3.0
    assert set(again.dataset.attrs) | {"wall_seconds"} == set(HALVING().dataset.attrs)


def test_parts_of_another_setting_are_refused_without_the_folders_setting(tmp_path: Path) -> None:
    HALVING(workplace=Workplace(folder=tmp_path))
    (tmp_path / "setting.json").unlink()
    with pytest.raises(ValueError, match=r"values.nc is no part of this experiment in this setting"):
        HALVING(Halving(factor=0.25), workplace=Workplace(folder=tmp_path))


@pytest.mark.parametrize(
    "foreign", [xr.Dataset({"value": ("step", [1.0])}), xr.DataTree.from_dict({"value": xr.Dataset()})]
)
def test_a_foreign_file_is_no_part(tmp_path: Path, foreign: xr.Dataset | xr.DataTree) -> None:
    nc.save(foreign, tmp_path / "values.nc")
    with pytest.raises(ValueError, match=r"values.nc is no part of this experiment in this setting"):
        HALVING(workplace=Workplace(folder=tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b""])
def test_a_damaged_setting_of_a_folder_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "setting.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"setting.json is damaged: it holds no setting; name another folder"):
        HALVING(workplace=Workplace(folder=tmp_path))


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="file is a file; name a folder"):
        HALVING(workplace=Workplace(folder=file))
    with pytest.raises(ValueError, match=r"cannot keep parts in .*: Not a directory; name another folder"):
        HALVING(workplace=Workplace(folder=file / "parts"))


def test_a_folder_of_another_setting_is_refused(tmp_path: Path) -> None:
    HALVING(workplace=Workplace(folder=tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="another experiment or setting; name another folder"):
        HALVING(Halving(seed=1), workplace=Workplace(folder=tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_data_without_a_place_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-root"):
        Workplace().samples("mnist")
    with pytest.raises(DataError, match="train-images"):
        Workplace(data_root=tmp_path).samples("mnist")
    assert len(Workplace().samples("digits")) > 1000


def test_settings_are_read_by_the_type_of_their_field() -> None:
    texts = ["num-steps=7", "factor=.25", "scales=.5,1e-3", "names=x, y", "folder=here", "loud=yes"]
    assert changed(Halving(), texts) == Halving(7, 0.25, (0.5, 1e-3), ("x", "y"), "here", True)
    assert changed(Halving(folder="here"), ["folder=none"]).folder is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_steps", "must look like key=value, got 'num_steps'"),
        ("num_step=3", "no setting 'num_step'; did you mean 'num_steps'"),
        ("zzz=3", "no setting 'zzz'; it has num_steps, factor"),
        ("num_steps=3.5", "'num_steps' must be an integer, got '3.5'"),
        ("factor=big", "'factor' must be a number, got 'big'"),
        ("loud=perhaps", "'loud' must be yes or no, got 'perhaps'"),
        ("scales=1,x", "'scales' must be a number, got 'x'"),
    ],
)
def test_a_wrong_setting_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(Halving(), [text])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_steps": np.int64(7), "factor": np.float32(0.25)}, Halving(7, 0.25)),
        ({"factor": 1, "loud": np.True_}, Halving(factor=1.0, loud=True)),
        ({"scales": [1, np.float64(2.5)], "names": ["x"]}, Halving(scales=(1.0, 2.5), names=("x",))),
        ({"scales": np.array([0.5, 0.25])}, Halving(scales=(0.5, 0.25))),
        ({"scales": range(2, 4), "folder": Path("here")}, Halving(scales=(2.0, 3.0), folder="here")),
        ({"folder": None}, Halving()),
    ],
)
def test_values_from_python_become_those_of_the_field(changes: dict[str, object], expected: Halving) -> None:
    found = replaced(Halving(), changes)
    assert found == expected
    assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(expected).values()]
    assert HALVING(Halving(**changes)).setting == expected  # checked where a setting is made by hand, too


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": "3"}, "setting 'num_steps' must be an integer, got '3'"),
        ({"num_steps": 3.0}, "setting 'num_steps' must be an integer, got 3.0"),
        ({"num_steps": True}, "setting 'num_steps' must be an integer, got True"),
        ({"seed": None}, "setting 'seed' must be an integer, got None"),
        ({"factor": float("nan")}, "setting 'factor' must be a number, got nan"),
        ({"loud": 1}, "setting 'loud' must be yes or no, got 1"),
        ({"scales": 2.0}, "setting 'scales' must be a tuple, got 2.0"),
        ({"names": "a"}, "setting 'names' must be a tuple, got 'a'"),
        ({"names": (1,)}, "setting 'names' must be a text, got 1"),
        ({"scales": ()}, "`scales` must hold at least one value"),
        ({"scales": (1, 2, 1)}, r"`scales` must hold no value twice, got \(1.0, 2.0, 1.0\)"),
        ({"num_steps": -3}, "`num_steps` must be at least 0, got -3"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
    ],
)
def test_values_that_cannot_be_run_with_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replaced(Halving(), changes)
    with pytest.raises(ValueError, match=message):
        HALVING(Halving(**changes))


def test_what_is_empty_by_default_may_be_empty() -> None:
    @dataclass(frozen=True)
    class Setting:
        extra: tuple[str, ...] = ()
        offset: int = 3

    assert replaced(Setting(("a",), 1), {"extra": [], "offset": -2}) == Setting((), -2)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_experiment_has_a_negative_count_or_seed_or_nothing_to_do(name: str) -> None:
    small = EXPERIMENTS[name].small
    for field in dataclasses.fields(small):
        value = getattr(small, field.name)
        empty = [""] if isinstance(value, tuple) and field.name not in ("widths", "hidden_layers") else []
        negative = ["-1"] if isinstance(value[0] if isinstance(value, tuple) else value, int) else []
        for text in empty + ([] if isinstance(value, bool) else negative):
            with pytest.raises(ValueError, match=field.name):
                changed(small, [f"{field.name}={text}"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("collapse-depth", "num_seeds=0", "`num_seeds` must be at least 1, got 0"),
        ("collapse-depth", "num_classes=1", "`num_classes` must be at least 2, got 1"),
        ("collapse-depth", "depths=4,4", r"`depths` must hold no value twice, got \(4, 4\)"),
        ("penultimate-svd", "networks=linear,linear", "`networks` must hold no value twice"),
        ("feature-pictures", "methods=pca,pca", "`methods` must hold no value twice"),
        ("depth-role", "samples_per_class=0", "`samples_per_class` must be at least 1, got 0"),
    ],
)
def test_settings_that_would_fail_after_training_fail_before(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(EXPERIMENTS[name].small, [text])


def test_one_of_two_sweeps_may_be_left_out() -> None:
    assert changed(EXPERIMENTS["assumption-checks"].small, ["widths="]).widths == ()


def test_networks_without_any_training_may_be_asked_for() -> None:
    assert changed(EXPERIMENTS["hybrid-vs-mlp"].small, ["epochs=0"]).epochs == 0
    assert changed(EXPERIMENTS["progressive-theorem"].small, ["num_steps=0"]).num_steps == 0


def test_settings_at_either_scale_are_as_they_are_checked() -> None:
    for experiment in EXPERIMENTS.values():
        for setting in (experiment.small, experiment.paper):
            assert checked(setting) == setting


def test_replaced_names_the_nearest_field() -> None:
    assert replaced(Halving(), {"seed": 4}).seed == 4
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        replaced(Halving(), {"seeds": 4})


def test_names_of_experiments_are_suggested() -> None:
    with pytest.raises(ValueError, match="there is no experiment"):
        find("no such thing at all")
    for name in EXPERIMENTS:
        assert find(name).name == name
        with pytest.raises(ValueError, match=f"did you mean {name!r}"):
            find(f"{name}x")


def test_every_listed_experiment_says_what_it_is() -> None:
    for experiment in EXPERIMENTS.values():
        assert experiment.shows.endswith(".")
        assert experiment.source
        assert len(experiment.durations) == 2
        assert type(experiment.small) is type(experiment.paper)
        assert isinstance(experiment.small.seed, int)
        assert callable(experiment.run)


def test_a_scale_or_setting_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="`scale` must be one of 'small', 'paper', got 'large'"):
        HALVING.setting("large")
    with pytest.raises(TypeError, match="must be a Halving, got a int"):
        HALVING(3)


@pytest.mark.parametrize(
    ("measured", "outcome"), [(1.0, "holds"), (2.0, "violated"), (float("nan"), "assumptions unmet")]
)
def test_bounds_can_fail(measured: float, outcome: str) -> None:
    assert at_most("x ≤ 1.5", "none", measured, 1.5).outcome == outcome
    assert at_least("−x ≥ −1.5", "none", -measured, -1.5).outcome == outcome


@pytest.mark.parametrize("value", [torch.ones(1, device="meta"), torch.ones(3).to_sparse(), torch.ones(2, 3)])
def test_a_setting_that_is_a_tensor_without_plain_numbers_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="setting 'num_steps' must be "):
        nc.experiment("svd-evolution", num_steps=value)
