"""The page of experiments, from the catalogue: what each shows, its source, and its settings at both scales."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from neurocollapse.experiments import EXPERIMENTS, Experiment

_ATTRIBUTES = "Attributes\n----------\n"

_PAGE = """\
# Experiments

Each experiment repeats a figure or a claim of the literature: a setting, a run, a dataset, a figure, and the source's
claims held against the measurement. Every claim can fail.

```sh
neurocollapse experiment --list
neurocollapse experiment {first}    # the small setting: under a minute
neurocollapse experiment {first} --set seed=1 --report report.html
neurocollapse experiment {first} --scale paper --data-root DATA
```

The exit code is the verdict: 0 if every claim holds, 1 if one is violated, 3 if the assumptions of a claim are unmet.
From Python, {{py:func}}`nc.experiment` returns an outcome with dataset, figure and verdicts. At paper scale some
experiments read MNIST, Fashion-MNIST or CIFAR-10 from the folder that `--data-root` or `NEUROCOLLAPSE_DATA` names;
nothing is downloaded. Times are for two cores. [What was reproduced](../reproduction.md) holds every number that the
sources print against the measured one, with its interval and verdict, and says what was not run. Each picture is what
its small setting drew, of a tall figure the upper part, and leads to the source and the settings.

{overview}

{sections}
"""

_SECTION = """\
({anchor})=
## {name}

{shows}.

*Source:* {source}. *Takes* {small}; at paper scale {paper}.

:::{{dropdown}} Settings
{settings}
:::
"""


_CARDS = """\
::::{{grid}} 1 2 2 2
:gutter: 3

{cards}
::::
"""

_CARD = """\
:::{{grid-item-card}} {name}
:link: {anchor}
:link-type: ref
:img-top: ../images/experiments/{name}.png
:img-alt: {alt}
:class-card: picture

{shows}. *Takes* {small}.
:::
"""


def pages(experiments: Mapping[str, Experiment] = EXPERIMENTS) -> dict[str, str]:
    """Name → content of the one page."""
    text = _PAGE.format(
        first=next(iter(experiments), "NAME"),
        overview=_overview(experiments) if experiments else "No experiment is listed yet.",
        sections="\n".join(map(section, experiments.values())),
    )
    return {"experiments.md": text}


def section(experiment: Experiment) -> str:
    """What one experiment shows, where it comes from, and its settings."""
    small, paper = experiment.durations
    return _SECTION.format(
        anchor=_anchor(experiment.name),
        name=experiment.name,
        shows=_sentence(experiment.shows),
        source=experiment.source.rstrip("."),
        small=_time(small),
        paper=_time(paper),
        settings=settings_table(experiment),
    )


def settings_table(experiment: Experiment) -> str:
    """Every field of the setting with its values at both scales and what it means."""
    meanings = _meanings(type(experiment.small))
    rows = ["| setting | small | paper | meaning |", "| --- | --- | --- | --- |"]
    for name, small in vars(experiment.small).items():
        paper = getattr(experiment.paper, name)
        rows.append(f"| `{name}` | {_value(small)} | {_value(paper)} | {_cell(meanings.get(name, ''))} |")
    return "\n".join(rows)


def drawn(experiment: Experiment) -> str:
    """What the figure shows, from the first paragraph of the function that draws it."""
    text = " ".join(inspect.cleandoc(experiment.draw.__doc__ or "").partition("\n\n")[0].split())
    return _sentence(text.removeprefix("Draw "))


def _overview(experiments: Mapping[str, Experiment]) -> str:
    """The cards at the top of the page."""
    return _CARDS.format(cards="\n".join(map(_card, experiments.values())))


def _card(experiment: Experiment) -> str:
    """An experiment's picture, name, lesson and duration."""
    return _CARD.format(
        name=experiment.name,
        anchor=_anchor(experiment.name),
        alt=drawn(experiment),
        shows=_sentence(experiment.shows),
        small=_time(experiment.durations[0]),
    )


def _meanings(setting: type) -> dict[str, str]:
    """Field → text, from the numpydoc sections Attributes of a class and of those it builds on."""
    meanings: dict[str, list[str]] = {}
    for docstring in [vars(each).get("__doc__") or "" for each in setting.__mro__]:
        attributes = re.split(r"\n\n(?=[A-Z]\w+\n-+\n)|\Z", inspect.cleandoc(docstring).partition(_ATTRIBUTES)[2])[0]
        fields: list[str] = []
        for line in filter(str.strip, attributes.splitlines()):
            if line.startswith(" "):
                for field in fields:
                    meanings[field].append(line.strip())
            else:
                names = [name.strip() for name in line.partition(" : ")[0].split(",")]
                fields = [name for name in names if name not in meanings]
                meanings.update({name: [] for name in fields})
    return {field: " ".join(lines) for field, lines in meanings.items()}


def _value(value: Any) -> str:
    """A value as it is written after --set."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text}`" if text else "(empty)"


def _time(text: str) -> str:
    """A duration whose unit stays on the line of its number."""
    return re.sub(r"(?<=\d) (?=\w)", "\N{NO-BREAK SPACE}", text)


def _sentence(text: str) -> str:
    """A line as the beginning of a sentence, without the full stop."""
    return text[:1].upper() + text[1:].rstrip(".")


def _cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    """The label of an experiment's section."""
    return f"experiment-{name}"
