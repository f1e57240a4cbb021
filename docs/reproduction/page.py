"""The page: every printed number beside the measured one, every run with its claims, and what was not run."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from neurocollapse.experiments import EXPERIMENTS, Experiment
from neurocollapse.experiments.experiment import SOFTWARE
from reproduction.not_run import LONG, REASONS, Skipped
from reproduction.printed import TAGS, Printed

ORDER = ("paper", "changed", "small")
"""Which run of a number is shown: that of the first of these settings, unless its claim lacks an assumption there; if
there are two, the one with more networks."""
MOST_NAMED = 2
"""Changes of a setting that fit into a cell."""
WORDS = {
    "holds": "met",
    "violated": "not met",
    "assumptions unmet": "without a verdict, because an assumption fails",
    "another setting": "measured in another setting",
    "not claimed": "measured, but not claimed",
    "not run": "not measured",
}
"""Verdict on a printed number → how the page counts it."""
UNDECIDED = ("another setting", "assumptions unmet")
FILE = "docs/reproduction.md"

_PAGE = """\
# What was reproduced

Every number that the sources print, beside what this library measures. A verdict is that of the experiment's claim:
`neurocollapse experiment NAME` prints all of them with their brackets.

{tags}

This page is made from the files in `docs/outcomes/`, one per run, and a test compares the two. To make it from runs of
your own:

```sh
neurocollapse experiment svd-evolution --output runs/svd-evolution.nc
python docs/reproduce.py collect runs    # writes docs/outcomes/svd-evolution-paper.json
python docs/reproduce.py table           # writes this page
```

Durations are of runs on one core, which other work shared at times: they say what is a matter of seconds, minutes or
hours. "Setting" is *paper* for the source's own, *small* for the one of under a minute, or what differs from these.

## Printed numbers

{counts} "Measured" is the mean over the networks, followed by its 95 % interval (Student's t) where there are several.

{numbers}

## Claims that a run violates

{violated}

## Claims that a run cannot judge

{unmet}

## Every run

"Checks" are claims that follow from a theorem or from arithmetic, which no network can violate: they test the library.

{runs}

## Not run

{skipped}
"""


def page(
    runs: Sequence[Mapping[str, Any]],
    numbers: Sequence[Printed],
    skipped: Sequence[Skipped],
    experiments: Mapping[str, Experiment] = EXPERIMENTS,
) -> str:
    """The whole page as Markdown."""
    return _PAGE.format(
        tags="\n".join(f"* **{tag}**: {words}." for tag, words in TAGS.items()),
        counts=_counts(runs, numbers),
        numbers=_numbers(runs, numbers),
        violated=_claims(runs, "violated") or "None.",
        unmet=_claims(runs, "assumptions unmet") or "None.",
        runs=_runs(runs),
        skipped=_skipped(runs, skipped, experiments),
    )


def _numbers(runs: Sequence[Mapping[str, Any]], numbers: Iterable[Printed]) -> str:
    """The table of printed numbers."""
    rows, before = [], ""
    for one in numbers:
        name = "" if one.experiment == before else _code(one.experiment)  # once for all rows of an experiment
        before = one.experiment
        rows.append([name, one.quantity, f"{one.printed} [{one.tag}]", *_measured(_best(runs, one), one)])
    head = ["experiment", "quantity", "printed", "measured", "95 %", "verdict", "setting", "seeds", "takes"]
    return _table(head, rows)


def _counts(runs: Sequence[Mapping[str, Any]], numbers: Sequence[Printed]) -> str:
    """How many printed numbers have which verdict."""
    best = [(one, _best(runs, one)) for one in numbers]
    found = Counter("not run" if run is None else run["numbers"][one.quantity]["verdict"] for one, run in best)
    counts = [f"{found[verdict]} {words}" for verdict, words in WORDS.items()]
    return f"Of {len(numbers)} printed numbers: {'; '.join(counts)}."


def _best(runs: Sequence[Mapping[str, Any]], one: Printed) -> Mapping[str, Any] | None:
    """The run that says most about a printed number."""
    able = [run for run in runs if run["experiment"] == one.experiment and one.quantity in run["numbers"]]

    def rank(run: Mapping[str, Any]) -> tuple[bool, int, int]:
        number = run["numbers"][one.quantity]
        return number["verdict"] in UNDECIDED, ORDER.index(run["scale"]), -number["networks"]

    return min(able, key=rank, default=None)


def _measured(run: Mapping[str, Any] | None, one: Printed) -> list[str]:
    """Measured value, verdict, setting, seeds and duration."""
    if run is None:
        return ["not run", "", "", "", "", ""]
    number = run["numbers"][one.quantity]
    interval = "" if number["low"] is None else f"{shown(number['low'])} to {shown(number['high'])}"
    verdict = number["verdict"]
    return [shown(number["mean"]), interval, verdict, setting(run), run["seeds"], duration(run["seconds"])]


def _claims(runs: Iterable[Mapping[str, Any]], outcome: str) -> str:
    """All claims with one outcome."""
    rows = [
        [_code(run["experiment"]), setting(run), one["claim"], shown(one["measured"]), _bracket(one), one["reason"]]
        for run in runs
        for one in run["claims"]
        if one["outcome"] == outcome
    ]
    head = ["experiment", "setting", "claim", "measured", "claimed", "why"]
    if outcome == "violated":
        head, rows = head[:-1], [row[:-1] for row in rows]
    return _table(head, rows) if rows else ""


def _runs(runs: Iterable[Mapping[str, Any]]) -> str:
    """The table of runs."""
    rows = []
    for run in runs:
        claims = [one for one in run["claims"] if not one["claim"].startswith(SOFTWARE)]
        counts = [str(sum(one["outcome"] == kind for one in claims)) for kind in _KINDS]
        checks = str(len(run["claims"]) - len(claims))
        rows.append([f"`{run['command']}`", run["seeds"], *counts, checks, duration(run["seconds"])])
    return _table(["run", "seeds", "hold", "violated", "unmet", "checks", "takes"], rows)


_KINDS = ("holds", "violated", "assumptions unmet")


def _skipped(
    runs: Iterable[Mapping[str, Any]], skipped: Iterable[Skipped], experiments: Mapping[str, Experiment]
) -> str:
    """What has no run: every experiment without one at paper scale, and parts of the sources without an experiment."""
    done = {(run["experiment"], run["scale"]) for run in runs}
    rows = []
    for name, experiment in experiments.items():
        same = experiment.small == experiment.paper
        if not same and (name, "paper") not in done:
            reason = REASONS.get(name, LONG)
            rows.append([_code(name), "paper scale", reason, experiment.durations[1]])
        if (name, "small") not in done and not (same and (name, "paper") in done):
            rows.append([_code(name), "small scale", "no outcome was kept", experiment.durations[0]])
    rows += [[_code(one.experiment), one.what, one.reason, one.takes] for one in skipped]
    return _table(["experiment", "what", "why", "would take"], rows)


def setting(run: Mapping[str, Any]) -> str:
    """The scale, or what differs from one, without the seed."""
    if run["scale"] != "changed":
        return str(run["scale"])
    words = run["command"].split()
    changes = [word for before, word in pairwise(words) if before == "--set"]
    scale = "paper" if "--scale" in words else "small"
    named = [_code(change) for change in changes if not change.startswith("seed=")]
    return f"{scale} with {', '.join(named) if len(named) <= MOST_NAMED else f'{len(named)} changes, see below'}"


def shown(value: float | None) -> str:
    """A number with four digits; counts in full."""
    if value is None:
        return "undefined"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−")
    if 1e-3 <= abs(value) < 1e3:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}".replace("-", "−")
    if 1e3 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return "not kept"
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _bracket(one: Mapping[str, Any]) -> str:
    """What a claim allows; None on a side stands for no limit."""
    low, high = one["lower"], one["upper"]
    if low is None:
        return "undefined" if high is None else f"≤ {shown(high)}"
    return f"≥ {shown(low)}" if high is None else f"{shown(low)} to {shown(high)}"


def _code(text: str) -> str:
    """As code."""
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
