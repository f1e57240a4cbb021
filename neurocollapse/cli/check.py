"""`neurocollapse check`: a gate on saved results."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_folders, exit_code
from neurocollapse.support.atomic import write


def check(
    file: Annotated[Path, typer.Argument(help="NetCDF file of analyze, or of a run over training.")],
    fail_on: Annotated[
        list[str],
        typer.Option(
            help="QUANTITY@LAYER OP NUMBER, such as 'compression@penultimate > 0.2': what must not be so. LAYER is a "
            "name, a glob, penultimate, last or *. Give it several times for several checks."
        ),
    ],
    steps: Annotated[
        Literal["last", "all"], typer.Option(help="Steps of a run to check: the last one, or all.")
    ] = "last",
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write, for systems that show tests.")] = None,
) -> None:
    """Check saved results: one line a finding, and exit code 1 if there is any.

    Exit code 0 if nothing is found, 1 if anything is, 3 if a quantity is undefined wherever a check looked for it.
    """
    check_folders(junit)
    found = _checked(file, fail_on, steps)
    if junit is not None:
        write(junit, found.to_junit(file.name))
    print(found)
    raise typer.Exit(exit_code(found.status))


def _checked(file: Path, expressions: list[str], steps: str) -> "nc.Checks":
    """The checks of a file, of every network in it."""
    import xarray as xr  # slow import, needed only here

    results = nc.open(file)
    if not isinstance(results, xr.DataTree):
        return nc.check(results, *expressions, steps=steps)
    parts = {name: nc.check(node.to_dataset(), *expressions, steps=steps) for name, node in results.children.items()}
    return nc.Checks.joined(parts)
