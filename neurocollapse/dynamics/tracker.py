"""Spectra and singular subspaces of weights along any training run."""

import warnings
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from markupsafe import escape
from torch import Tensor, nn

from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.layout import Layout, Options
from neurocollapse.dynamics.matrices import Weights, as_matrix, matrix_places, named_matrices
from neurocollapse.dynamics.rows import RowFile, stored_layout
from neurocollapse.dynamics.run import Run
from neurocollapse.support.checks import file_path, integer, shown
from neurocollapse.support.table import html_table


class WeightTracker:
    r"""Record singular values, their drift, and the turning of singular subspaces while a network trains.

    While training waits, a weight is only copied; the linear algebra follows in blocks. It never touches the weights,
    the buffers, the global random state or the train mode: a parametrised weight is the one of eval mode.

    Parameters
    ----------
    model : torch.nn.Module or list of Tensor, optional
        The network at its start, W(0), from which the drift counts. Without it, the first weights recorded are the
        start; the event "after_batch" first comes after an update. For a run that
        continues in its file, the file's W(0) counts.
    layers
        Names, globs, types, presets of modules (or names of parameters), as `named_matrices` takes them; default all
        linear and convolutional layers. A convolution's weight, transposed or not, is read as a matrix
        out × (in · height · width). Matrices of a list are called W_1, W_2, …
    every : int, default 1
        Record steps 0, every, 2·every, …
    steps : iterable of int, optional
        Record these steps instead.
    components
        Singular values to keep. Default: all up to a smaller side of 256, the 32 leading ones beyond. Where less than
        half of a spectrum is wanted, it comes from a random sketch, with its errors `singular_value_error` and
        `range_error`. The error of the sketched drift is not bounded: where the change has no leading directions,
        its values are about 15 % too low.
    edge : int, default 1
        How many singular vectors at either end are followed one by one, at most half of a layer's; those between are
        followed as one subspace.
    reference : int or None, default 1
        The step to whose singular vectors angles are measured: the first one recorded from there on. If None, angles
        are not computed (twice as fast). The spectrum of an orthogonal start is degenerate, hence not 0. A layer
        whose weight is zero or not finite there has no angles at all.
    path : path-like, optional
        A NetCDF file to append to, so that memory stays bounded; whole at any moment, and written every five seconds
        (less often when that would take more than a twentieth of the time), at `to_dataset`, `flush` and at the end of
        a `with` block. An existing file is continued.
    seed : int, default 0
        Seed of the sketches.

    Notes
    -----
    Hand it over as an event, ``fit(model, …, events={"after_batch": tracker})`` or ``descend(weights, …,
    events={"on_step": tracker})``, or call ``tracker.record(step, model)`` in a loop of your own. A step at or before
    the last one drops the rows from there on: a run that continues from a checkpoint overwrites what it repeats.

    Pass every step to `record`, also those that `every` and `steps` leave out. The first step tells a new tracker
    whether to resume the run in its file. If it is not later than the first step of that run, the run starts over: all
    rows are dropped, and W(0) is the model that was passed.

    `fit` and `descend` write the rows before their own `resume` file, so that after a crash at any moment the tracker's
    file holds every step once, with the bits of an unbroken run. In a loop of your own, call `flush` before you save a
    checkpoint. A run that continues after steps which its file lacks is refused.

    Raises
    ------
    TrackerError
        If weights or `path` belong to another network, another tracker wrote to `path` meanwhile, weights are not
        real floating-point numbers, or a run goes on later than its file.

    Examples
    --------
    >>> tracker = WeightTracker(reference=None)
    >>> for step in range(3):
    ...     tracker.record(step, [torch.diag(torch.tensor([3.0, 1.0 + step]))])
    >>> tracker.to_dataset()["singular_values"].sel(layer="W_1").values.round(6).tolist()
    [[3.0, 1.0], [3.0, 2.0], [3.0, 3.0]]
    """

    def __init__(
        self,
        model: Weights | None = None,
        *,
        layers: Any = None,
        every: int = 1,
        steps: Iterable[int] | None = None,
        components: int | None = None,
        edge: int = 1,
        reference: int | None = 1,
        path: str | PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.every = integer("every", every, least=1)
        self.steps = None if steps is None else frozenset(integer("steps", step) for step in steps)
        self.layers = layers
        self.options = Options(
            None if components is None else integer("components", components, least=1),
            integer("edge", edge, least=1),
            None if reference is None else integer("reference", reference),
            integer("seed", seed),
        )
        self.path = None if path is None else Path(file_path("path", path))
        self._model = model if isinstance(model, nn.Module) else None
        self._readers: tuple[nn.Module, list[Callable[[], Tensor]]] | None = None
        self._places: tuple[int, list[int]] | None = None
        self._run: Run | None = None
        if model is not None:
            with torch.no_grad():
                given = [matrix.detach().clone() for matrix in self._matrices(model)]
                self._run = self._open(model, given)

    def __call__(self, progress: Any) -> None:
        """Record as an event: of anything with `step` and either `model` or `weights`."""
        self.record(progress.step, self._weights(progress))

    def record(self, step: int, model: Weights) -> None:
        """Record the weights at a step, if it is one of those wanted; the first call says where the run begins.

        Parameters
        ----------
        step : int
            Number of the step; later calls have larger ones.
        model : torch.nn.Module or sequence of Tensor
            The network, or its weights, as they are now.
        """
        run = self._run
        if run is None or not run.has_begun:
            run = self._begin(step, model)
        run.see(step)
        if step % self.every if self.steps is None else step not in self.steps:
            return
        if torch.is_grad_enabled():
            with torch.no_grad():  # entering it twice would cost a tenth of the copy
                run.add(int(step), self._matrices(model))
        else:
            run.add(int(step), self._matrices(model))

    def flush(self) -> None:
        """Analyse what has been copied, and write it where there is a file."""
        if self._run is not None:
            self._run.flush()

    def commit(self, progress: Any) -> None:
        """Write everything up to a step, before the training's own file says that it came so far.

        `fit` and `descend` call it, where an event has it.

        Parameters
        ----------
        progress
            What the training hands to its events; its `step` is the last one to keep.
        """
        run = self._run
        if run is None or not run.has_begun:
            run = self._begin(progress.step, self._weights(progress))
        run.see(progress.step)
        run.flush()

    def resume(self, progress: Any) -> None:
        """Continue after a step: later rows are dropped, as the training repeats them.

        `fit` and `descend` call it instead of "on_start" where they continue from a file, if the event has it.

        Parameters
        ----------
        progress
            What the training hands to its events; its `step` is the one from which it continues.

        Raises
        ------
        TrackerError
            If the tracker's file lacks a step up to there. Without a file, a warning says so.
        """
        run = self._opened(self._weights(progress))
        step = int(progress.step)
        lacks_some = self._wants_any(run.first_unseen, step + 1)
        if lacks_some and self.path is not None:
            raise TrackerError(self._gap(run.first_unseen, step + 1))
        if lacks_some:
            warnings.warn(
                f"the tracker lacks steps {run.first_unseen} to {step} of the run that continues, and drift counts "
                "from its later start; name a file in `path` to keep them",
                stacklevel=2,
            )
        run.go_on_behind(step)

    def to_dataset(self) -> xr.Dataset:
        """Everything recorded, along `step`, `layer` and `component`; what is beyond a layer's own size is NaN."""
        if self._run is None and self.path is not None and self.path.exists():
            return RowFile(self.path, stored_layout(self.path)).dataset()
        if self._run is None:
            raise ValueError("nothing has been recorded yet; hand the tracker over as an event, or call record")
        self._run.flush()
        return self._run.store.dataset()

    def __enter__(self) -> "WeightTracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __repr__(self) -> str:
        where = "memory" if self.path is None else str(self.path)
        count = 0 if self._run is None else len(self._run.layout.names)
        return f"WeightTracker({count} layers, every {self.every}, in {where})"

    def _repr_html_(self) -> str:
        layout = None if self._run is None else self._run.layout
        named = [] if layout is None else zip(layout.names, layout.shapes, strict=True)
        rows = [[name, f"{outputs:,} × {inputs:,}"] for name, (outputs, inputs) in named]
        return f"<p>{escape(repr(self))}</p>{html_table(['layer', 'outputs × inputs'], rows)}"

    def _weights(self, progress: Any) -> Weights:
        """The weights of an event."""
        weights: Weights | None = getattr(progress, "model", self._model)
        return progress.weights if weights is None else weights

    def _begin(self, step: int, weights: Weights) -> Run:
        """Begin at the first step that is seen, whether or not it is one of those wanted."""
        if integer("step", step) > np.iinfo(np.int64).max:  # in which files keep it
            raise ValueError(f"`step` must be an integer of 64 bits, got {shown(step)}")
        run = self._opened(weights)
        far = not run.starts_over_at(step) and step - run.first_unseen >= run.stride
        if far and self._wants_any(run.first_unseen, step):
            raise TrackerError(self._gap(run.first_unseen, step))
        run.begin(int(step))
        return run

    def _opened(self, weights: Weights) -> Run:
        """The run, which the first weights open that there are."""
        if self._run is None:
            with torch.no_grad():
                self._run = self._open(weights, [])
        return self._run

    def _wants_any(self, first: int, end: int) -> bool:
        """Whether any of the steps from `first` up to before `end` is one to record."""
        if self.steps is not None:
            return any(first <= step < end for step in self.steps)
        return -(-first // self.every) * self.every < end

    def _gap(self, first: int, end: int) -> str:
        """What to say of lost steps."""
        lost = f"step {first}" if end == first + 1 else f"steps {first} to {end - 1}"
        return (
            f"{self.path} lacks {lost} of the run that continues at step {end}; continue from a checkpoint before "
            "them, or delete the tracker's file and that of the training"
        )

    def _open(self, weights: Weights, given: list[Tensor]) -> Run:
        """Find out what is tracked, and open the file if there is one."""
        matrices = {name: read() for name, read in named_matrices(weights, self.layers).items()}
        for name, matrix in matrices.items():
            if not matrix.is_floating_point():
                raise TrackerError(
                    f"{name} holds {str(matrix.dtype).removeprefix('torch.')}, not real floating-point numbers; choose "
                    "other weights with `layers`"
                )
        shapes = tuple((matrix.shape[0], matrix.shape[1]) for matrix in matrices.values())
        return Run.open(Layout(tuple(matrices), shapes, self.options), self.path, given)

    def _matrices(self, weights: Weights) -> list[Tensor]:
        """The matrices as they are now; which of the weights they are is looked up once."""
        if isinstance(weights, nn.Module):
            if self._readers is None or self._readers[0] is not weights:
                self._readers = weights, list(named_matrices(weights, self.layers).values())
            return [read() for read in self._readers[1]]
        if self._places is None or self._places[0] != len(weights):
            places = matrix_places(weights, self.layers)
            self._places = len(weights), places
        return [as_matrix(weights[place]) for place in self._places[1]]
