"""`neurocollapse report`: the main job, or a page about saved results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_folders
from neurocollapse.support.progress import announce

if TYPE_CHECKING:
    import xarray as xr


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Results to show, of analyze or experiment. Default: run the main job.")
    ] = None,
    output: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    analysis: Annotated[Path, typer.Option(help="NetCDF file that the main job writes.")] = Path("analysis.nc"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the main job's networks.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Set two saved results, or first and last step of one, side by side.")
    ] = False,
    progress: Annotated[bool, typer.Option(help="Show progress: bars on a terminal, lines in a log.")] = True,
) -> None:
    """Train two networks on digits and report on all their layers, or report on saved results."""
    check_folders(output, *([] if files else [analysis]))
    if files:
        if output.resolve() in {path.resolve() for path in files}:
            raise ValueError(f"{output} holds results to show; name another file with --output")
        print(f"report: {nc.report(_opened(files), output, compare=compare).resolve()}")
        return
    if compare:
        raise ValueError("--compare needs results to compare; name two files, e.g. report A.nc B.nc --compare")
    import xarray as xr  # slow imports, needed only here

    from neurocollapse.experiments import first_look

    look = first_look(seed=seed, progress=progress)
    announce(f"writing {output}", shown=progress)
    results = {**look.analyses, **look.verifications}
    nc.report(results, output, title="How layers separate and compress", figures=look.figures)
    nc.save(xr.DataTree.from_dict(dict(look.analyses)), analysis)
    for name, dataset in look.analyses.items():
        print(f"{name}\n{nc.table(dataset)}\n")
    for name, verification in look.verifications.items():
        print(f"{name}: {verification.title.lower()}: {verification.status}")
    print(f"\nanalysis: {analysis.resolve()}\nreport:   {output.resolve()}")


def _opened(files: list[Path]) -> dict[str, Any]:
    """Analyses and outcomes of experiments by name, from files of one or of several."""
    import xarray as xr  # slow import, needed only here

    found: list[tuple[tuple[str, ...], Any]] = []
    for path in files:
        results, place = nc.open(path), path.with_suffix("").parts
        if isinstance(results, xr.DataTree):
            found += [((*place, name), _shown(node.to_dataset(), path)) for name, node in results.children.items()]
        else:
            found.append((place, _shown(results, path)))
    return _named(found)


def _shown(dataset: "xr.Dataset", path: Path) -> Any:
    """An analysis as it is; of an experiment's dataset the outcome."""
    if "experiment" not in dataset.attrs:
        return dataset
    from neurocollapse.experiments import restored  # slow imports, needed only here

    try:
        return restored(dataset)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _named(found: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """Results by the last parts of where they come from, of each as many as it takes to tell all of them apart."""
    for count in range(1, 1 + max((len(place) for place, _ in found), default=0)):
        named = {"/".join(place[-count:]): result for place, result in found}
        if len(named) == len(found):
            return named
    raise ValueError("two of the files have the same name, or one is given twice; a report needs a name for each")
