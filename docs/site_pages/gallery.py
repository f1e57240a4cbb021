"""The gallery: every figure of `nc.plot` with the code that drew it, from two networks trained at the build."""

import io
from functools import cache
from textwrap import dedent
from typing import Any

import neurocollapse as nc

SETTING = """\
import torch
from torch.nn import functional

import neurocollapse as nc
from neurocollapse import data
from neurocollapse.dynamics import WeightTracker
from neurocollapse.models import HybridMLP, mlp

torch.manual_seed(0)
train, test = data.open("digits"), data.open("digits", split="test")
models = {"MLP": mlp(64, 64, 10, depth=7), "hybrid": HybridMLP(64, 64, 10, num_nonlinear=3, num_linear=4)}
networks, runs, spectra = {}, {}, {}
for name, model in models.items():
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    tracker, weights = nc.track(model, train.loader(512), layers="layers.*"), WeightTracker(model)
    for epoch in range(25):
        if epoch % 4 == 0:
            tracker.record(epoch)
            weights.record(epoch, model)
        for images, labels in train.loader(128, shuffle=True, seed=epoch):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    runs[name], spectra[name] = tracker.to_dataset(), weights.to_dataset()
    networks[name] = nc.analyze(
        model, train.loader(512), layers="layers.*", probes="mse", test_loader=test.loader(512), progress=False
    )
"""
"""What all figures are drawn from."""

FIGURES = {
    "layers": "nc.plot.layers(networks)",
    "compression": "nc.plot.compression(networks)",
    "decay": "nc.plot.decay(networks)",
    "separation": "nc.plot.separation(networks)",
    "class_spread": 'nc.plot.class_spread(networks["hybrid"])',
    "probes": "nc.plot.probes(networks)",
    "ranks": "nc.plot.ranks(networks)",
    "evolution": 'nc.plot.evolution(runs["hybrid"])',
    "trajectories": 'nc.plot.trajectories(runs["hybrid"])',
    "quantities": 'nc.plot.quantities(runs, ["compression", "separation"], over="step")',
    "collapse": """\
        layers = ["layers.*", "penultimate"]
        measured = nc.analyze(model, train.loader(512), layers=layers, quantities="collapse", progress=False)
        nc.plot.collapse(measured)""",
    "margin_efficiency": """\
        heads = {
            name: nc.analyze(model, train.loader(512), layers="penultimate", quantities="margin", progress=False)
            for name, model in models.items()
        }
        nc.plot.margin_efficiency(heads)""",
    "similarity": 'nc.plot.similarity(nc.similarity(model, train.loader(512), layers="layers.*", progress=False))',
    "features": """\
        with torch.no_grad(), nc.capture(model, "layers.*") as features:
            model(test.inputs)
        nc.plot.features(features, test.labels, layers=["layers.0", "layers.2", "layers.5"], columns=3)""",
    "spectra": """\
        values = {f"layers.{index}": torch.linalg.svdvals(model.layers[index].weight) for index in (3, 4, 5)}
        nc.plot.spectra(values, relative=True)""",
    "trajectory": 'nc.plot.trajectory(spectra["hybrid"], layer="layers.4")',
    "angles": 'nc.plot.angles(spectra["hybrid"], layer="layers.4")',
    "bounds": """\
        verification = nc.verify(model, train.inputs, train.labels)
        nc.plot.bounds(verification.to_dataset())""",
    "certificate": "nc.plot.certificate(nc.verify(model, train.inputs, train.labels).to_dataset())",
}
"""Name of each function, and a call of it."""

_TOOLS = ("close", "context", "offscreen_axes", "svg_text")
"""What `nc.plot` offers beside figures."""
_DPI = 110

_PAGE = """\
# Gallery

Every figure of {{py:mod}}`nc.plot <neurocollapse.plots>` with the code that draws it. A figure of one dataset is also a
method of it, `dataset.nc.plot.layers()`, and TAB lists them. Several networks go in as a mapping of names to datasets;
`width="column"` or `width="page"` makes a figure for a paper.

:::{{dropdown}} What is drawn: two networks on digits
```python
{setting}```
:::

{sections}
"""

_SECTION = """\
(figure-{name})=
## {name}

{summary}

```{{image}} gallery/{name}.png
:alt: {alt}
:class: figure
```

```python
{code}
```

{{py:func}}`All arguments <neurocollapse.plots.{name}>`
"""


def pages() -> dict[str, str | bytes]:
    """Name → content of the page and of its pictures."""
    sections = [
        _SECTION.format(name=name, summary=summary(name), alt=summary(name).rstrip("."), code=dedent(code))
        for name, code in FIGURES.items()
    ]
    return {
        "gallery.md": _PAGE.format(setting=SETTING, sections="\n".join(sections)),
        **{f"gallery/{name}.png": picture for name, picture in pictures().items()},
    }


def figures() -> list[str]:
    """The names of all functions that draw."""
    return sorted(set(nc.plot.__all__) - set(_TOOLS))


def summary(name: str) -> str:
    """The first paragraph of a function's docstring, on one line."""
    text = str(getattr(nc.plot, name).__doc__).partition("\n\n")[0]
    return " ".join(text.split())


@cache
def pictures() -> dict[str, bytes]:
    """Name → PNG of each figure, from one run of the setting."""
    place: dict[str, Any] = {}
    exec(SETTING, place)  # the code above, which the page shows
    return {name: _drawn(dedent(code), place) for name, code in FIGURES.items()}


def _drawn(code: str, place: dict[str, Any]) -> bytes:
    """The figure that the last line of some code makes."""
    lines = code.splitlines()
    start = max(index for index, line in enumerate(lines) if line.startswith("nc.plot."))
    exec("\n".join(lines[:start]), place)  # shown beside its picture
    drawn = eval("\n".join(lines[start:]), place)  # shown beside its picture
    figure = drawn if hasattr(drawn, "savefig") else drawn.get_figure(root=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    nc.plot.close(figure)
    return stream.getvalue()
