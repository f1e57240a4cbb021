"""Conditions are parsed and never evaluated; checks find what is so, and nothing else."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neurocollapse as nc
from neurocollapse.cli import main
from neurocollapse.tracking import Condition


@pytest.fixture
def measured() -> xr.Dataset:
    """Three layers, one of them read at its input, with a number of each kind."""
    return xr.Dataset(
        {
            "compression": ("layer", [4.0, 0.5, 0.2]),
            "decay_ratio": ("layer", [np.nan, 0.125, 0.4]),
            "nc3": ("layer", [np.nan, np.nan, np.nan]),
            "class_count": (("layer", "class"), [[5, 9], [5, 9], [5, 9]]),
            "class_cosine": (("layer", "class", "class_"), np.ones((3, 2, 2))),
            "decay_slope": ((), -1.5),
            "note": ("layer", ["a", "b", "c"]),
        },
        {"layer": ["body.fc1", "head@in", "head"], "class": [0, 1], "class_name": ("class", ["cat", "dog"])},
    )


# The grammar.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("compression@penultimate < 0.01", ("compression", "penultimate", "<", 0.01)),
        ("dead_share@*>=.05", ("dead_share", "*", ">=", 0.05)),
        ("  nc3 @ layers.*.fc@in#2 != -1E-3 ", ("nc3", "layers.*.fc@in#2", "!=", -1e-3)),
        ("decay_slope > 0", ("decay_slope", "", ">", 0.0)),
        ("a@(root) == +inf", ("a", "(root)", "==", np.inf)),
        ("a@my layer <= 3.", ("a", "my layer", "<=", 3.0)),
    ],
)
def test_expressions_are_read(text: str, expected: tuple) -> None:
    found = Condition.parse(text)
    assert (found.quantity, found.layer, found.operator, found.number) == expected
    assert Condition.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "compression", "compression@last", "compression@last 0.1", "@last < 1", "compression@ < 1"),
        *("compression@last < x", "compression@last < nan", "compression@last < 1 or 1", "compression@last =< 1"),
        *("compression@last = 1", "compression@last << 1", "__import__('os').system('x')@last < 1", "a.b@last < 1"),
        *("compression@last < 1_0", "compression@last < 0x1", "compression@last < 1; b@last < 2", "a@last < 1\n\nb"),
        *("a@last !< 1", "a@b\nc < 1", "a@" + 400 * "b "),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, measured: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="is no expression; write QUANTITY@LAYER OP NUMBER") as caught:
        nc.check(measured, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_text_is_asked_for(measured: xr.Dataset) -> None:
    with pytest.raises(TypeError, match="an expression must be a string, got float"):
        nc.check(measured, 0.5)
    with pytest.raises(ValueError, match="at least one expression"):
        nc.check(measured)
    with pytest.raises(TypeError, match=r"must be an xarray\.Dataset, got dict"):
        nc.check({}, "a@last > 1")
    with pytest.raises(ValueError, match="`steps` must be one of 'last', 'all', got 'first'"):
        nc.check(measured, "compression@last > 1", steps="first")


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("<", [1]), ("<=", [1, 2]), (">", [3]), (">=", [2, 3]), ("==", [2]), ("!=", [1, 3])],
)
def test_operators_compare_and_undefined_numbers_meet_none(operator: str, expected: list[float]) -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    assert values[Condition.parse(f"a@b {operator} 2").meets(values)].tolist() == expected


# Which numbers are meant.


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("last", ["head"]),
        ("penultimate", ["head@in"]),
        ("*", ["body.fc1", "head@in", "head"]),
        ("head*", ["head@in", "head"]),
        ("[!b]*", ["head@in", "head"]),
        ("**.fc1", ["body.fc1"]),
        ("head@in", ["head@in"]),
    ],
)
def test_layers_are_named_in_every_way(measured: xr.Dataset, layer: str, expected: list[str]) -> None:
    assert [one.where for one in nc.check(measured, f"compression@{layer} > 0").findings] == expected


def test_a_layer_of_that_name_wins_over_the_word(measured: xr.Dataset) -> None:
    named = measured.assign_coords(layer=["last", "head@in", "head"])
    assert [one.value for one in nc.check(named, "compression@last > 0").findings] == [4.0]


def test_findings_say_what_where_and_how_much(measured: xr.Dataset) -> None:
    found = nc.check(
        measured, "compression@last > 0.1", "compression@last > 0.3", "class_count@last > 5", "decay_slope < 0"
    )
    assert found.lines == [
        "compression@last > 0.1: 0.2 at head",
        "class_count@last > 5: 9 at head, class dog",
        "decay_slope < 0: -1.5",
    ]
    assert found.status == "violated"
    assert repr(found).endswith("4 checks, 3 findings")


def test_nothing_found_holds_and_nothing_defined_is_undecided(measured: xr.Dataset) -> None:
    assert nc.check(measured, "compression@* > 5").status == "holds"
    assert nc.check(measured, "decay_ratio@* > 5").status == "holds"  # of the first layer it is always undefined
    found = nc.check(measured, "nc3@* > 5", "compression@* > 5")
    assert found.status == "assumptions unmet"
    assert found.lines == ["nc3@* > 5: undecided, as it is undefined everywhere"]
    assert nc.check(measured, "nc3@* > 5", "compression@* > 1").status == "violated"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("compresion@last > 1", "no quantity 'compresion'; did you mean 'compression'"),
        ("note@last > 1", "no quantity 'note'"),
        ("compression@hed > 1", "no layer 'hed'; did you mean 'head'"),
        ("compression@layers.* > 1", r"no layer 'layers\.\*'; there are body.fc1, head@in, head"),
        ("compression > 1", "has a number for each layer; add @LAYER"),
        ("decay_slope@last > 1", "has none; leave out @LAYER"),
        ("class_cosine@last > 1", "dimensions layer, class, class_; only layers and classes"),
    ],
)
def test_what_does_not_exist_is_refused_naming_what_does(measured: xr.Dataset, expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        nc.check(measured, expression)
    assert "\n" not in str(caught.value)


def test_without_a_tap_at_an_input_there_is_no_penultimate_layer(measured: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="no layer was measured at its input"):
        nc.check(measured.isel(layer=[0, 2]), "compression@penultimate > 1")


def run_of(measured: xr.Dataset) -> xr.Dataset:
    """Three epochs, of which the first is above one."""
    steps = [measured.assign(compression=("layer", [4.0, 0.5, value])) for value in (1.5, 0.9, 0.2)]
    return xr.concat(steps, pd.Index([0, 5, 10], name="epoch"), data_vars="all")


def test_of_a_run_the_last_step_is_checked_or_all(measured: xr.Dataset) -> None:
    run = run_of(measured)
    assert nc.check(run, "compression@last > 0.5").status == "holds"
    found = nc.check(run, "compression@last > 0.5", steps="all")
    assert found.lines == [
        "compression@last > 0.5: 1.5 at epoch 0, head",
        "compression@last > 0.5: 0.9 at epoch 5, head",
    ]


def test_every_model_is_checked(measured: xr.Dataset) -> None:
    other = measured.assign(compression=measured["compression"] + 1)
    both = xr.concat([measured, other], pd.Index(["MLP", "hybrid"], name="model"), data_vars="all")
    assert nc.check(both, "compression@last > 1").lines == ["compression@last > 1: 1.2 at hybrid, head"]


# JUnit XML and the command.


def test_junit_has_a_case_for_each_expression(measured: xr.Dataset) -> None:
    expressions = ("compression@* > 0.3", "compression@* < 0", "nc3@* > 5")
    suite = ElementTree.fromstring(nc.check(measured, *expressions).to_junit("gate <1>"))
    counts = {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    assert suite.attrib == {"name": "gate <1>", **counts}
    assert [case.attrib["name"] for case in suite] == list(expressions)
    failed, passed, skipped = suite
    assert failed[0].tag == "failure"
    assert failed[0].text.splitlines() == [f"compression@* > 0.3: {at}" for at in ("4 at body.fc1", "0.5 at head@in")]
    assert not len(passed)
    assert skipped[0].tag == "skipped"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, measured: xr.Dataset):
    """The command on a saved file; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    nc.save(measured, "run.nc")
    nc.save(xr.DataTree.from_dict({"MLP": measured, "hybrid": measured.isel(layer=[1, 2])}), "both.nc")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["check", *arguments])
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return call


def test_the_exit_code_is_the_verdict(run) -> None:
    assert run("run.nc", "--fail-on", "compression@* > 9") == (0, "1 check, 0 findings\n", "")
    code, out, err = run("run.nc", "--fail-on", "compression@* > 1", "--fail-on", "compression@penultimate > 0.2")
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "compression@* > 1: 4 at body.fc1",
        "compression@penultimate > 0.2: 0.5 at head@in",
        "2 checks, 2 findings",
    ]
    assert run("run.nc", "--fail-on", "nc3@* > 1")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run.nc",), "Missing option '--fail-on'"),
        (("run.nc", "--fail-on", "compression@last >"), "is no expression"),
        (("run.nc", "--fail-on", "compresion@last > 1"), "did you mean 'compression'"),
        (("none.nc", "--fail-on", "a@last > 1"), "none.nc does not exist"),
        (("run.nc", "--fail-on", "compression@last > 1", "--junit", "no/where.xml"), "no"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_every_network_of_a_file_is_checked(run) -> None:
    code, out, _ = run("both.nc", "--fail-on", "compression@* > 1")
    assert (code, out.splitlines()[0]) == (1, "compression@* > 1: 4 at MLP, body.fc1")
    assert run("both.nc", "--fail-on", "nc3@* > 1")[0] == 3


def test_junit_xml_is_written_also_where_nothing_is_found(run, tmp_path) -> None:
    for limit, failures in (("9", "0"), ("1", "1")):
        run("run.nc", "--fail-on", f"compression@* > {limit}", "--junit", "checks.xml")
        assert ElementTree.parse(tmp_path / "checks.xml").getroot().attrib["failures"] == failures
