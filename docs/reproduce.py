"""Collect outcomes of experiments, and write the page that holds them against the printed numbers.

python docs/reproduce.py collect FOLDER…   NetCDF files of `neurocollapse experiment` → docs/outcomes/*.json
python docs/reproduce.py table             docs/outcomes/*.json → docs/reproduction.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reproduction import classifiers, linear_networks, recovery
from reproduction.not_run import SKIPPED
from reproduction.outcomes import datasets, read, summary, write
from reproduction.page import page

HERE = Path(__file__).parent
OUTCOMES, PAGE = HERE / "outcomes", HERE / "reproduction.md"
NUMBERS = (*linear_networks.NUMBERS, *recovery.NUMBERS, *classifiers.NUMBERS)


def collect(folders: Sequence[Path], into: Path = OUTCOMES) -> list[Path]:
    """Write a small file for every outcome in the folders."""
    return [write(summary(dataset, NUMBERS), into) for dataset in datasets(folders)]


def table(outcomes: Path = OUTCOMES) -> str:
    """The page."""
    return page(read(outcomes), NUMBERS, SKIPPED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="NetCDF files to docs/outcomes/*.json")
    collecting.add_argument("folders", nargs="+", type=Path)
    commands.add_parser("table", help="docs/outcomes/*.json to docs/reproduction.md")
    chosen = parser.parse_args(arguments)
    if chosen.command == "collect":
        for path in collect(chosen.folders):
            print(path)
    else:
        PAGE.write_text(table(), encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
