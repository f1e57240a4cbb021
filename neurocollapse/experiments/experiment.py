"""What an experiment is: settings at two scales, a run that gives a dataset, its figure, and claims that can fail."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr

from neurocollapse import plots
from neurocollapse.experiments.settings import checked, read
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.support.atomic import replacing
from neurocollapse.support.choices import check_choice
from neurocollapse.support.provenance import describe_process
from neurocollapse.theory import Verdict, Verification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("small", "paper")
SETTING = "setting"
"""Attribute of a dataset that holds its whole setting as JSON."""
WALL_SECONDS = "wall_seconds"
"""Attribute of a dataset: how long the run took. A run that found finished parts has none."""
SOFTWARE = "check of the software: "
"""Prefix of a claim that follows from a theorem or from arithmetic: only a mistake in the software can violate it."""
PIXELS_PER_INCH = 200
"""Resolution of figures saved as PNG: sharp at column width."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the source material.

    Attributes
    ----------
    name
        What the command line calls it.
    shows
        What one learns from it, in one line.
    source
        Paper or slides, with the figure or table where there is one.
    small, paper
        Frozen dataclasses of one type with a field `seed`: a setting of under a minute, and the printed one.
    durations
        How long the two take on two cores, in words.
    run
        (setting, workplace) → Dataset.
    draw
        Dataset → matplotlib Figure.
    claims
        Dataset → the source's statements beside what was measured.
    """

    name: str
    shows: str
    source: str
    small: Any
    paper: Any
    durations: tuple[str, str]
    run: Callable[[Any, Workplace], xr.Dataset] = field(repr=False)
    draw: Callable[[xr.Dataset], "Figure"] = field(repr=False)
    claims: Callable[[xr.Dataset], Sequence[Verdict]] = field(repr=False)

    def setting(self, scale: str = "small") -> Any:
        """The setting of a scale.

        Parameters
        ----------
        scale : {"small", "paper"}, default "small"
            "small" runs on a laptop, "paper" is the published setting.
        """
        check_choice("scale", scale, SCALES)
        return self.small if scale == "small" else self.paper

    def __call__(self, setting: Any = None, *, workplace: Workplace | None = None) -> "Outcome":
        """Run the experiment in a setting (default: the small one) and hold its claims against the result.

        Raises
        ------
        TypeError
            If the setting is of another experiment.
        ValueError
            If one of its values is not of its field's type, or none that the experiment can run with.
        """
        setting = self.small if setting is None else setting
        if type(setting) is not type(self.small):
            raise TypeError(
                f"`setting` of {self.name} must be a {type(self.small).__name__}, got a {type(setting).__name__}"
            )
        setting = checked(setting)
        workplace = (workplace or Workplace()).claimed_by(self.name, setting)
        is_whole, began = not workplace.has_parts(), time.perf_counter()
        dataset = self.run(setting, workplace).assign_attrs(describe_process())
        if is_whole:  # the time of a resumed run is that of its rest
            dataset.attrs[WALL_SECONDS] = time.perf_counter() - began
        return self._judged(setting, dataset)

    def restored(self, dataset: xr.Dataset) -> "Outcome":
        """Restore the outcome of an earlier run from its saved dataset; the claims are judged again.

        Parameters
        ----------
        dataset : xarray.Dataset
            As an outcome's `dataset`, or as `nc.open` reads it from a file.

        Raises
        ------
        ValueError
            If the dataset is of another experiment, or of a version with another setting, or does not hold what the
            claims are judged by.
        """
        if dataset.attrs.get("experiment") != self.name:
            raise ValueError(f"the dataset is of experiment {dataset.attrs.get('experiment')!r}, not of {self.name!r}")
        try:
            setting = read(type(self.small), dataset.attrs[SETTING])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the dataset does not hold a setting of {self.name} as it is now; run it again"
            ) from error
        try:
            return self._judged(setting, dataset)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"the dataset does not hold what {self.name} measures now; run it again") from error

    def _judged(self, setting: Any, dataset: xr.Dataset) -> "Outcome":
        """Hold the claims against a dataset, with the setting in its attributes as text and value by value."""
        values = {key: _storable(value) for key, value in asdict(setting).items()}
        text = json.dumps(asdict(setting))
        dataset = dataset.assign_attrs({"experiment": self.name, "source": self.source, SETTING: text, **values})
        return Outcome(self, setting, dataset, tuple(self.claims(dataset)))


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """The result of an experiment; `nc.report` shows it beside analyses and verifications.

    Attributes
    ----------
    experiment, setting
        What was run.
    dataset
        Everything measured; the setting is in its attributes.
    verdicts
        The source's claims, each with the measurement and one of three outcomes.
    """

    experiment: Experiment
    setting: Any
    dataset: xr.Dataset
    verdicts: tuple[Verdict, ...]
    assumptions: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @property
    def status(self) -> str:
        """ "violated" if any claim is; else "assumptions unmet" if any is, or there is none; else "holds"."""
        return self._verification.status

    def figure(self) -> "Figure":
        """Draw the experiment's figure; it is registered with pyplot, as a notebook needs."""
        return self.experiment.draw(self.dataset)

    def save_figure(self, path: str | PathLike[str]) -> None:
        """Draw the figure into a file.

        Parameters
        ----------
        path : path
            File to write; its ending (png, svg, pdf) says in which format.

        Raises
        ------
        ValueError
            If the ending is of no format that matplotlib knows.
        ResultFileError
            If the file cannot be written.
        """
        figure = self.figure()
        try:
            with replacing(path) as part:
                figure.savefig(part, dpi=PIXELS_PER_INCH)
        finally:
            plots.close(figure)

    def to_dataset(self) -> xr.Dataset:
        """The measurements, a copy, with the outcome in its attributes."""
        return self.dataset.copy(deep=True).assign_attrs(status=self.status)

    def to_json(self, *, indent: int | None = None) -> str:
        """Claims and measurements as JSON; numbers that are NaN or infinite become null.

        Parameters
        ----------
        indent : int, optional
            Spaces by which nested values are indented. Default: everything on one line.
        """
        return self._verification.to_json(indent=indent)

    @property
    def title(self) -> str:
        """Name and lesson."""
        return f"{self.experiment.name}: {self.experiment.shows}"

    @property
    def _verification(self) -> Verification:
        """The claims as a verification, which knows what they amount to."""
        return Verification(self.title, self.assumptions, self.verdicts, dataset=self.dataset)

    def __repr__(self) -> str:
        return repr(replace(self._verification, title=f"{self.title} [{self.experiment.source}]"))

    def _repr_html_(self) -> str:
        return replace(self._verification, title=f"{self.title} [{self.experiment.source}]")._repr_html_()


def near(
    claim: str, reference: str, measured: float, expected: float, *, within: float = 0.03, unmet: Sequence[str] = ()
) -> Verdict:
    """A claim that a number is the expected one up to a part `within` of it.

    Examples
    --------
    >>> near("ρ(50) = 0.951", "recursion", 0.96, 0.951).outcome, near("ρ(50) = 0.951", "recursion", 1.0, 0.951).outcome
    ('holds', 'violated')
    """
    room = within * abs(expected)
    return Verdict.judge(claim, reference, measured, expected - room, expected + room, tolerance=0.0, unmet=unmet)


def at_most(claim: str, reference: str, measured: float, upper: float, *, unmet: Sequence[str] = ()) -> Verdict:
    """A claim that a number does not exceed a bound."""
    return Verdict.judge(claim, reference, measured, upper=upper, tolerance=0.0, unmet=unmet)


def at_least(claim: str, reference: str, measured: float, lower: float, *, unmet: Sequence[str] = ()) -> Verdict:
    """A claim that a number does not fall below a bound."""
    return Verdict.judge(claim, reference, measured, lower=lower, tolerance=0.0, unmet=unmet)


def _storable(value: Any) -> Any:
    """A setting's value as NetCDF attributes can hold it."""
    return (
        str(value) if value is None or isinstance(value, bool) else list(value) if isinstance(value, tuple) else value
    )
