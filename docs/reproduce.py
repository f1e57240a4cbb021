"""Collect outcomes of experiments, draw them, and write the page that holds them against the printed numbers.

python docs/reproduce.py collect FOLDER…   NetCDF files of `neurocollapse experiment` → docs/outcomes/*.json
python docs/reproduce.py draw FOLDER…      the same files → docs/images/experiments/*.png
python docs/reproduce.py table             docs/outcomes/*.json → docs/reproduction.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reproduction import classifiers, linear_networks, recovery
from reproduction.not_run import SKIPPED
from reproduction.outcomes import datasets, read, summary, write
from reproduction.page import page
from reproduction.pictures import write_pictures

from neurocollapse.experiments import restored

HERE = Path(__file__).parent
OUTCOMES, PAGE, PICTURES = HERE / "outcomes", HERE / "reproduction.md", HERE / "images" / "experiments"
NUMBERS = (*linear_networks.NUMBERS, *recovery.NUMBERS, *classifiers.NUMBERS)


def collect(folders: Sequence[Path], into: Path = OUTCOMES) -> list[Path]:
    """Write a small file for every outcome in the folders."""
    return [write(summary(dataset, NUMBERS), into) for dataset in datasets(folders)]


def draw(folders: Sequence[Path], into: Path = PICTURES) -> list[Path]:
    """Draw a small picture of every experiment that has an outcome in the folders."""
    return write_pictures(map(restored, datasets(folders)), into)


def table(outcomes: Path = OUTCOMES) -> str:
    """The page."""
    return page(read(outcomes), NUMBERS, SKIPPED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, does in {"collect": "NetCDF files to docs/outcomes", "draw": "NetCDF files to docs/images"}.items():
        commands.add_parser(name, help=does).add_argument("folders", nargs="+", type=Path)
    commands.add_parser("table", help="docs/outcomes to docs/reproduction.md")
    chosen = parser.parse_args(arguments)
    if chosen.command == "table":
        PAGE.write_text(table(), encoding="utf-8")
        print(PAGE)
    else:
        for path in {"collect": collect, "draw": draw}[chosen.command](chosen.folders):
            print(path)


if __name__ == "__main__":
    main()
