"""`neurocollapse experiment`: the experiments of the source material, by name."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import neurocollapse as nc
from neurocollapse.cli.inputs import check_folders, exit_code

if TYPE_CHECKING:
    from neurocollapse.experiments import Experiment

WIDTH = 100
"""Characters of a line of the list."""


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which experiment; --list shows them all.")] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="Say what each shows, how long it takes and where it comes from.")
    ] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="key=value changes the setting; repeat for more.")
    ] = None,
    scale: Annotated[
        Literal["small", "paper"], typer.Option(help="small: under a minute. paper: the printed setting.")
    ] = "small",
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=….")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="Print the setting and leave.")] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="NEUROCOLLAPSE_DATA", help="Folder with mnist/, fashion-mnist/, cifar10/ for paper scale."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder in which finished parts are kept.")] = None,
    output: Annotated[Path | None, typer.Option(help="NetCDF file. Default: NAME.nc")] = None,
    figure: Annotated[Path | None, typer.Option(help="Figure: png, svg or pdf. Default: NAME.png")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write as well.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress: bars on a terminal, lines in a log.")] = True,
) -> None:
    """Run an experiment of the source material and hold its claims against the result.

    The exit code is the verdict. 0: every claim holds. 1: one is violated. 2: bad input. 3: assumptions unmet.
    """
    from neurocollapse.experiments import EXPERIMENTS, Workplace, changed, find  # slow imports, needed only here

    if list_all or name is None:
        print("\n\n".join(map(_entry, EXPERIMENTS.values())))
        return
    chosen = find(name)
    setting = changed(chosen.setting(scale), [*(assignments or []), *([] if seed is None else [f"seed={seed}"])])
    if settings:
        print("\n".join(f"{key}={value}" for key, value in vars(setting).items()))
        return
    output, figure = output or Path(f"{name}.nc"), figure or Path(f"{name}.png")
    check_folders(output, figure, report)
    _check_format(figure)
    outcome = chosen(setting, workplace=Workplace(data_root=data_root, folder=resume, progress=progress))
    nc.save(outcome.to_dataset(), output)
    outcome.save_figure(figure)
    if report is not None:
        nc.report({chosen.name: outcome}, report)
    print(f"{outcome}\n\ndataset: {output.resolve()}\nfigure:  {figure.resolve()}")
    if report is not None:
        print(f"report:  {report.resolve()}")
    raise typer.Exit(exit_code(outcome.status))


def _check_format(figure: Path) -> None:
    """Raise unless the name's ending is that of a format in which figures can be saved."""
    from neurocollapse import plots  # slow import, needed only here

    formats = plots.offscreen_axes().figure.canvas.get_supported_filetypes()
    if figure.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(f"cannot write {figure}: the name of a figure must end in .png, .svg or .pdf")


def _entry(listed: "Experiment") -> str:
    """One experiment of the list."""
    small, paper = listed.durations
    lines = [listed.shows, f"Takes {small}; at paper scale {paper}.", f"Source: {listed.source}."]
    wrapped = [textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="  ") for line in lines]
    return "\n".join([listed.name, *wrapped])
