"""The context manager for a user's own loop: features of the last forward pass, by layer name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurocollapse.hooks.masks import Positions
from neurocollapse.hooks.outputs import Path
from neurocollapse.hooks.plan import Site, SiteKey
from neurocollapse.hooks.pool import Pool
from neurocollapse.hooks.recorder import Recorder
from neurocollapse.hooks.sites import Calls
from neurocollapse.support.checks import flag, shown
from neurocollapse.support.table import html_table
from neurocollapse.support.text import listed


class Features(Mapping[str, Tensor]):
    """The features of the last forward pass: layer name → Tensor (samples · positions, features).

    The tensors are detached copies in float32 or float64, never views of the model's memory.

    Parameters
    ----------
    model, layers, **options
        See `capture`.

    Attributes
    ----------
    sites : dict of str to Site
        What is known of each layer: layout, pooling, depth, shapes.
    skipped : dict of str to str
        The layers that were left out, and why.
    """

    def __init__(self, model: nn.Module, layers: Any, **options: Any) -> None:
        self._recorder = Recorder(model, layers, sink=self._keep, **options)
        self._forward = 0
        self._values: dict[SiteKey, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        for key, site in self._recorder.sites.items():
            if site.name == name and key in self._current():
                return self._values[key]
        captured = listed(self, most=6) or "nothing yet: call the model inside the `with` block, in the same thread"
        reason = self.skipped.get(name)
        raise KeyError(
            f"{shown(name)} is left out: {reason}" if reason else f"no features of {shown(name)}; captured: {captured}"
        )

    def __iter__(self) -> Iterator[str]:
        current = self._current()
        return (site.name for key, site in self._recorder.sites.items() if key in current)

    def __len__(self) -> int:
        return len(self._current())

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in self.items())
        return f"Features({shapes})"

    def _repr_html_(self) -> str:
        sites = self.sites
        rows = [
            [name, sites[name].module_type, str(tuple(tensor.shape)), sites[name].layout, sites[name].pooling]
            for name, tensor in self.items()
        ]
        rows += [[name, f"left out: {reason}", "", "", ""] for name, reason in self.skipped.items()]
        return str(html_table(["layer", "type", "features", "layout", "pooling"], rows))

    @property
    def sites(self) -> dict[str, Site]:
        return {site.name: site for site in self._recorder.sites.values()}

    @property
    def skipped(self) -> dict[str, str]:
        return self._recorder.skipped

    def expect(self, num_samples: int, *, mask: Tensor | None = None) -> None:
        """Tell the batch size of the next forward pass, where the first axis of its first input does not show it.

        Parameters
        ----------
        num_samples : int
            The batch size.
        mask : Tensor of shape (samples, positions), optional
            Which positions are real, where the model itself is given no mask. Default: the model's own mask, if any.
        """
        self._recorder.expect(num_samples, mask=mask)

    def clear(self) -> None:
        """Forget the features, and start counting calls again where only parts of the model are called."""
        self._recorder.reset()
        self._values.clear()

    def _current(self) -> dict[SiteKey, Tensor]:
        """The features of the last forward pass, none if it failed or has not ended."""
        return self._values if self._forward == self._recorder.forward and not self._recorder.is_open else {}

    def _keep(self, key: SiteKey, features: Tensor, positions: Positions) -> None:
        """Copy features out of the model's memory, and out of inference mode, whose tensors autograd refuses."""
        if self._forward != self._recorder.forward:
            self._values, self._forward = {}, self._recorder.forward
        with torch.inference_mode(False):
            self._values[key] = features.clone()


@contextmanager
def capture(
    model: nn.Module,
    layers: Any,
    *,
    pool: Pool | Mapping[str, Pool] = "auto",
    calls: Calls = "all",
    output: Path | int | Mapping[str, Path | int] | None = None,
    mask: str | Literal[False] | None = None,
    stop: bool = False,
) -> Iterator[Features]:
    """Capture features of chosen layers while your own code runs the model.

    Inside the block, every call of the model replaces the features by those of that call. The model's device, mode and
    values are not touched: use ``model.eval()`` and ``torch.no_grad()`` yourself where you want them. When the block
    ends, also by an error, the hooks placed here are removed, and no others. Calls in other threads are ignored.

    Parameters
    ----------
    model : torch.nn.Module
        The model. Wrappers such as DistributedDataParallel and torch.compile are looked through; compiled models run
        eagerly inside the block.
    layers
        Names, globs, presets ("leaves", "blocks", "linear", "penultimate"), regular expressions, types, modules,
        predicates, a list of these or a dict from aliases; see `neurocollapse.hooks.select`.
    pool : {"auto", "mean", "max", "cls", "last", "flatten", "positions", "tokens"}, callable or dict, default "auto"
        How maps and token sequences become one row per sample, or one row per position; a dict chooses by layer name.
    calls : {"all", "first", "last"}, default "all"
        Which calls of a module that is called several times in one forward pass; all are named "act#0", "act#1".
    output : str, int, callable or dict, optional
        Which tensor of a structured output is meant: a path ("mean", "hidden_states.3"), an index or a function; a
        dict chooses by layer name.
    mask : str or False, optional
        Argument of the model that says which positions are real (1) and which padding (0): every pooling looks at real
        ones only, and padding gets no rows. False ignores any mask. Default: `attention_mask`, where there is one.
    stop : bool, default False
        End the forward pass after the last of these layers, so that the rest is not computed and the model returns
        None; only the first call runs to its end. Calls of these layers that come later than in the first call are not
        seen, and forward hooks of the modules that contain the last layer do not run.

    Yields
    ------
    Features
        Mapping from layer names to tensors of shape (samples · positions, features), in order of first firing.

    Raises
    ------
    NoMatchError
        If a selector matches nothing.
    NeverFiredError, AmbiguousOutputError, LayoutError
        From the first call of the model, if a layer chosen by name cannot be captured. Layers that were swept up by a
        preset or pattern are left out instead, with one `CaptureWarning`; so are those that no longer fit later.
    CallCountError
        If a module chosen by name is called more or less often than in the first call of the model.
    CaptureError
        If another thread captures features of the model, or of a part of it; with `stop`, if its forward pass has to
        run to its end: with calls="last", activation checkpointing, sharded or offloaded weights, in
        DistributedDataParallel in training mode, hooks with always_call=True, or where the model catches BaseException.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with capture(model, ["1", "penultimate"]) as features:
    ...     scores = model(torch.zeros(3, 4))
    >>> {name: tuple(value.shape) for name, value in features.items()}
    {'1': (3, 8), '2@in': (3, 8)}
    """
    features = Features(model, layers, pool=pool, calls=calls, output=output, mask=mask, halt=flag("stop", stop))
    try:
        with features._recorder:
            yield features
    finally:
        features._recorder.close()
