"""Two networks side by side: who is more collapsed, where, and by how much."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import neurocollapse as nc
from neurocollapse.report.compare import comparison_of, comparison_pictures


def lead(make_analysis, first, second, **options) -> str:
    given = {"A": make_analysis(first), "B": make_analysis(second, **options)}
    return comparison_of(given).lead


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (
            [4.0, 2.0, 1.0],
            [4.0, 1.0, 0.1],
            "B is more collapsed than A at 2 of 3 layers; at layers.2 D of B is 0.100 against 1, 10 times lower.",
        ),
        (
            [1.0, 1.1, 1.0],
            [2.0, 3.0, 0.5],
            "A is more collapsed than B at 2 of 3 layers; but at layers.2 D of B is 0.500 against 1, 2 times lower.",
        ),
        (
            [1.0, 2.0],
            [2.0, 1.0],
            "Either network is more collapsed at 1 of 2 layers; at layers.1 D of B is 1 against 2, 2 times lower.",
        ),
        (
            [4.0, 1.0],
            [4.0, 1.01],
            "Both networks are compressed alike at all 2 layers; at layers.1 they are alike (D = 1 and 1.01).",
        ),
        (
            [4.0, 1.0],
            [4.0, 0.0],
            "B is more collapsed than A at 1 of 2 layers; at layers.1 D of B is 0 against 1, exact collapse.",
        ),
        ([4.0, 2.0], [2.0, np.nan], "B is more collapsed than A at the only layer that can be compared."),
        ([np.nan, np.nan], [2.0, 1.0], "No layer has a compression D in both networks."),
    ],
)
def test_the_verdict_says_who_is_more_collapsed(make_analysis, first, second, sentence) -> None:
    assert lead(make_analysis, first, second) == sentence


def test_every_layer_has_both_numbers_their_ratio_and_which_is_lower(make_analysis) -> None:
    found = comparison_of({"A": make_analysis([4.0, 2.0]), "B": make_analysis([5.0, 0.5])})
    first = found.grids[0]
    assert first.headings == ("layer", "D of A", "D of B", "B ÷ A", "lower")
    assert [[cell.exact for cell in row] for row in first.rows] == [
        ["layers.0", 4.0, 5.0, 1.25, "A"],
        ["layers.1", 2.0, 0.5, 0.25, "B"],
    ]
    assert [cell.shown for cell in first.rows[1]] == ["layers.1", "2.000", "0.500", "0.250", "B"]


def test_every_number_is_compared_in_its_own_direction(make_analysis) -> None:
    base = make_analysis([4.0, 2.0])
    sides = []
    for share in ([0.5, 0.7], [0.4, 0.9]):
        about = {"heading": "S", "better": "higher", "valid_min": 0.0, "valid_max": 1.0}
        sides.append(base.assign(separation=("layer", share, about)))
    found = comparison_of(dict(zip("AB", sides, strict=True)))
    (row,) = [row for row in found.grids[1].rows if row[0].exact == "S"]
    assert [cell.exact for cell in row[1:3]] == [0.7, 0.9]
    assert [cell.exact for cell in row[4:]] == ["B", "1 of 2", "1 of 2"]
    (one,) = [one for one in found.evidence if one.title.startswith("S of both")]
    assert [row[-1].exact for row in one.rows] == ["A", "B"]


def test_numbers_in_units_of_the_features_have_no_winner(make_analysis) -> None:
    found = comparison_of({"A": make_analysis([4.0, 2.0]), "B": make_analysis([5.0, 0.5])})
    rows = {row[0].exact: [cell.exact for cell in row[4:]] for row in found.grids[1].rows}
    assert make_analysis()["within_trace"].attrs["better"] == "lower"
    assert rows["tr Σ_W"] == ["–", "–", "–"]
    assert rows["D"] == ["B", "1 of 2", "1 of 2"]


def test_layers_are_matched_by_name_then_by_place_then_at_both_ends(make_analysis) -> None:
    shared = comparison_of({
        "A": make_analysis([4.0, 2.0, 1.0], names=["x", "y", "z"]),
        "B": make_analysis([3.0, 1.0], names=["x", "z"]),
    })  # fmt: skip
    assert [row[0].exact for row in shared.grids[0].rows] == ["x", "z"]
    assert shared.note == "Layers of one network only are left out: A has y."
    placed = comparison_of({"A": make_analysis([4.0, 2.0]), "B": make_analysis([3.0, 1.0], names=["p", "q"])})
    assert [row[0].exact for row in placed.grids[0].rows] == ["layers.0 | p", "layers.1 | q"]
    assert "compared in their order" in placed.note
    ends = comparison_of({"A": make_analysis([4.0, 3.0, 2.0]), "B": make_analysis([3.0, 1.0], names=["p", "q"])})
    assert [row[0].exact for row in ends.grids[0].rows] == ["layers.0 | p", "layers.2 | q"]
    assert "only the first and the last" in ends.note


def test_intervals_over_samples_are_apart_or_overlap(make_analysis) -> None:
    def known(low: float) -> xr.Dataset:
        ends = ("layer", "bound"), [[1.0, 2.0], [low, low + 0.5]], {"heading": "D, 95 %"}
        return make_analysis([1.5, 0.5]).assign(compression_interval=ends)

    for first, second in ((0.1, 0.8), (0.8, 0.1)):
        rows = comparison_of({"A": known(first), "B": known(second)}).grids[0].rows
        assert [row[-1].exact for row in rows] == ["overlap", "apart"]


def test_the_figure_is_the_ratio_of_both(make_analysis) -> None:
    (picture,) = comparison_pictures({"A": make_analysis([4.0, 2.0]), "B": make_analysis([5.0, 0.5])})
    assert picture.title == "D of B over D of A, layer by layer"
    assert picture.caption == "Below the line at 1 B is more collapsed, above it A."


def test_a_page_that_compares_leads_with_the_comparison(make_analysis, tmp_path: Path) -> None:
    given = [make_analysis([4.0, 2.0, 1.0], model="before"), make_analysis([4.0, 1.0, 0.1], model="after")]
    plain = nc.report(given, tmp_path / "plain.html").read_text(encoding="utf-8")
    page = nc.report(given, tmp_path / "page.html", compare=True).read_text(encoding="utf-8")
    verdict = page.partition('<section id="verdict">')[2].partition("</section>")[0]
    assert "<li>after is more collapsed than before at 2 of 3 layers;" in verdict
    assert '<section id="compare">' in page
    assert '<section id="compare">' not in plain
    assert page.index('id="compare"') < page.index('id="layers"')


def test_the_first_and_the_last_step_of_one_run_are_compared(make_analysis, tmp_path: Path) -> None:
    steps = [make_analysis([4.0, value]) for value in (3.0, 2.0, 1.0)]
    run = xr.concat(steps, pd.Index([0, 5, 9], name="epoch"), combine_attrs="drop_conflicts")
    page = nc.report({"net": run}, tmp_path / "page.html", compare=True).read_text(encoding="utf-8")
    assert "net, epoch 9 is more collapsed than net, epoch 0 at 1 of 2 layers; at layers.1 D of net, epoch 9" in page


def test_anything_but_two_networks_is_refused(make_analysis, make_verification, tmp_path: Path) -> None:
    one = make_analysis()
    for results, found in (([one], r"1 \(HybridMLP\)"), ([one] * 3, r"3 \("), (make_verification(), "0;")):
        with pytest.raises(ValueError, match=rf"`compare=True` needs two networks, .* got {found}"):
            nc.report(results if isinstance(results, list) else [results], tmp_path / "page.html", compare=True)
    assert not re.findall("page", " ".join(map(str, tmp_path.iterdir())))
