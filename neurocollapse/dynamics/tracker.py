"""Spectra and singular subspaces of weights along any training run."""

import html
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from neurocollapse.dynamics.analysis import Memory, analyse
from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.layout import Layout, Options
from neurocollapse.dynamics.matrices import Weights, as_matrix, matrix_places, named_matrices
from neurocollapse.dynamics.rows import InMemory, RowFile, Store, stored_layout, stored_memory
from neurocollapse.dynamics.snapshots import Snapshots
from neurocollapse.support.checks import integer
from neurocollapse.support.table import html_table


class WeightTracker:
    r"""Record singular values, their drift, and the turning of singular subspaces while a network trains.

    While training waits, a weight is only copied; the linear algebra follows in blocks. It never touches the weights,
    the buffers, the global random state or the train mode: a parametrised weight is the one of eval mode.

    Parameters
    ----------
    model
        The network at its start, W(0), from which the drift counts. Without it, the first weights recorded are the
        start; the event "after_batch" first comes after an update. Of a run that goes on in its file, the file's W(0)
        counts, whatever is handed over.
    layers
        Names, globs, types, presets of modules (or names of parameters), as `named_matrices` takes them; default all
        linear and convolutional layers. A convolution's weight, transposed or not, is read as a matrix
        out × (in · height · width). Matrices of a list are called W_1, W_2, …
    every
        Record steps 0, every, 2·every, …
    steps
        Record these steps instead.
    components
        Singular values to keep. Default: all up to a smaller side of 256, the 32 leading ones beyond. Where less than
        half of a spectrum is wanted, it comes from a random sketch, with its errors `singular_value_error` and
        `range_error`. Of the sketched drift nothing bounds the error: where the change has no leading directions, its
        values are low by about 15 %.
    edge
        How many singular vectors at either end are followed one by one, at most half of a layer's; those between are
        followed as one subspace.
    reference
        The step to whose singular vectors angles are measured: the first one recorded from there on. None for no
        angles, which saves half of the time. The spectrum of an orthogonal start is degenerate, hence not 0. A layer
        whose weight is zero or not finite there has no angles at all.
    path
        A NetCDF file to append to, so that memory stays bounded; whole at any moment, and written every five seconds
        (less often when that would take more than a twentieth of the time), at `to_dataset`, `flush` and at the end of
        a `with` block. An existing file is continued.
    seed
        Of the sketches.

    Notes
    -----
    Hand it over as an event, ``fit(model, …, events={"after_batch": tracker})`` or ``descend(weights, …,
    events={"on_step": tracker})``, or call ``tracker.record(step, model)`` in a loop of your own. A step at or before
    the last one drops the rows from there on: a run that goes on from a checkpoint overwrites what it repeats.

    Let every step be seen, also those that `every` and `steps` leave out. By the first one a new tracker tells whether
    the run goes on that its file holds, or one starts over: then it is not later than the first that the file's run
    saw, all rows are dropped, and W(0) is what was handed over.

    Raises
    ------
    TrackerError
        If weights or `path` belong to another network, another tracker wrote to `path` meanwhile, or weights are not
        real floating-point numbers.

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
        self.path = None if path is None else Path(path)
        self._model = model if isinstance(model, nn.Module) else None
        self._readers: tuple[nn.Module, list[Callable[[], Tensor]]] | None = None
        self._places: tuple[int, list[int]] | None = None
        self._run: _Run | None = None
        if model is not None:
            with torch.no_grad():
                given = [matrix.detach().clone() for matrix in self._matrices(model)]
                self._run = self._open(model, given)

    def __call__(self, progress: Any) -> None:
        """Record as an event: of anything with `step` and either `model` or `weights`."""
        weights = getattr(progress, "model", self._model)
        self.record(progress.step, progress.weights if weights is None else weights)

    def record(self, step: int, model: Weights) -> None:
        """Record the weights at a step, if it is one of those wanted; the first call tells where the run begins."""
        run = self._run
        if run is None or not run.has_begun:
            run = self._begin(step, model)
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
        return f"<p>{html.escape(repr(self))}</p>{html_table(['layer', 'outputs × inputs'], rows)}"

    def _begin(self, step: int, weights: Weights) -> "_Run":
        """Begin at the first step that is seen, whether or not it is one of those wanted."""
        if self._run is None:
            with torch.no_grad():
                self._run = self._open(weights, [])
        self._run.begin(int(step))
        return self._run

    def _open(self, weights: Weights, given: list[Tensor]) -> "_Run":
        """Find out what is tracked, and open the file if there is one."""
        matrices = {name: read() for name, read in named_matrices(weights, self.layers).items()}
        for name, matrix in matrices.items():
            if not matrix.is_floating_point():
                raise TrackerError(
                    f"{name} holds {str(matrix.dtype).removeprefix('torch.')}, not real floating-point numbers; choose "
                    "other weights with `layers`"
                )
        shapes = tuple((matrix.shape[0], matrix.shape[1]) for matrix in matrices.values())
        return _Run.open(Layout(tuple(matrices), shapes, self.options), self.path, given)

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


class _Run:
    """The rows of one run, and the copies that are not rows yet."""

    def __init__(self, layout: Layout, store: Store, memory: Memory, given: list[Tensor]) -> None:
        self.layout = layout
        self.store = store
        self.memory = memory
        self.given = given
        self.last = store.last
        self.snapshots: Snapshots | None = None
        self.has_begun = False

    @classmethod
    def open(cls, layout: Layout, path: Path | None, given: list[Tensor]) -> "_Run":
        """A new run, or the one in the file."""
        if path is None:
            return cls(layout, InMemory(layout), Memory(), given)
        if not path.exists():
            return cls(layout, RowFile(path, layout), Memory(), given)
        if difference := layout.difference(stored_layout(path)):
            raise TrackerError(f"{path} tracks another run ({difference}); name another file")
        return cls(layout, RowFile(path, layout), stored_memory(path, layout), given)

    def begin(self, step: int) -> None:
        """Go on with the run in the file; or start over, if this first step is not later than that one's."""
        if self.memory.first_step is None or step <= self.memory.first_step:
            self.last = self.store.cut(step)
            self.memory = Memory(list(self.given), start_is_given=bool(self.given), first_step=step)
            self.store.keep(self.memory)
        self.has_begun = True

    def add(self, step: int, matrices: Sequence[Tensor]) -> None:
        """Copy the matrices of a step; analyse when there is no more room."""
        if self.last is not None and step <= self.last:
            self._go_back_to(step)
        if self.snapshots is None:
            self.snapshots = Snapshots(self.layout, matrices)
        self.snapshots.add(step, matrices)
        if not self.memory.start:
            self.memory.start = self.given or [matrix.detach().clone() for matrix in matrices]
            self.memory.start_is_given = bool(self.given)
        self.last = step
        if self.store.due:
            self.flush()
        elif self.snapshots.full:
            self._analyse()

    def flush(self) -> None:
        """Turn the copies into rows, and write the rows."""
        self._analyse()
        self.store.write()

    def _analyse(self) -> None:
        """Turn the copies into rows."""
        if self.snapshots is not None and self.snapshots.steps:
            steps, stacks = self.snapshots.take()
            rows = analyse(steps, stacks, self.layout, self.memory)
            self.store.append(steps, rows, self.memory)

    def _go_back_to(self, step: int) -> None:
        """Drop what was recorded at this step and later; a start that was given stays, the first weights do not."""
        self.flush()
        self.last = self.store.cut(step)
        if self.memory.reference_step is not None and self.memory.reference_step >= step:
            self.memory.frames, self.memory.reference_step = [], None
        if self.last is None:
            first = self.memory.first_step
            self.memory.first_step = step if first is None else min(step, first)
            self.memory.start = self.memory.start if self.memory.start_is_given else []
