"""Figures of analyses and verifications; the only part of the library that knows matplotlib.

Every function returns its Axes or Figure and leaves matplotlib's settings as they were. A figure made here without
`ax=` belongs to pyplot, as a notebook needs to display it; close it with `matplotlib.pyplot.close` in long programs,
or pass `ax=offscreen_axes()` for a figure not registered with pyplot.
"""

from neurocollapse.plots.certificate import certificate
from neurocollapse.plots.certificates import bounds
from neurocollapse.plots.classes import class_spread
from neurocollapse.plots.collapse import collapse
from neurocollapse.plots.evolution import evolution
from neurocollapse.plots.layerwise import compression, decay, separation
from neurocollapse.plots.margin_efficiency import margin_efficiency
from neurocollapse.plots.overview import layers
from neurocollapse.plots.pictures import features
from neurocollapse.plots.probing import probes, ranks
from neurocollapse.plots.quantities import quantities
from neurocollapse.plots.similarity import similarity
from neurocollapse.plots.spectra import spectra
from neurocollapse.plots.style import close, context, offscreen_axes
from neurocollapse.plots.svg import svg_text
from neurocollapse.plots.trajectories import trajectories
from neurocollapse.plots.trajectory import angles, trajectory

__all__ = [
    "angles",
    "bounds",
    "certificate",
    "class_spread",
    "close",
    "collapse",
    "compression",
    "context",
    "decay",
    "evolution",
    "features",
    "layers",
    "margin_efficiency",
    "offscreen_axes",
    "probes",
    "quantities",
    "ranks",
    "separation",
    "similarity",
    "spectra",
    "svg_text",
    "trajectories",
    "trajectory",
]


def __dir__() -> list[str]:
    """What a user needs; the modules of the same package stay out of sight."""
    return [*__all__]
