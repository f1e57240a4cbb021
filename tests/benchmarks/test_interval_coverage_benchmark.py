"""The benchmark of coverage prints a row for each case, with shares and quotients that make sense."""

import pytest

from benchmarks.interval_coverage import main


def test_every_case_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--draws", "4", "--classes", "3", "10", "--samples", "5", "--noise", "Gaussian"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["3", "5", "Gaussian"], ["10", "5", "Gaussian"]]
    for row in rows:
        assert all(0 <= float(cell.removesuffix(" %")) <= 100 for cell in row[3:6])
        raw, unbiased, corrected = map(float, row[6:9])
        assert raw < corrected < unbiased
        assert row[9] == "0.0 %"
