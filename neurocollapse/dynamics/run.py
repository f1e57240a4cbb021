"""One run of a tracker: its rows, and the copies of weights that are not rows yet."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from neurocollapse.dynamics.analysis import Memory, analyse
from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.dynamics.layout import Layout
from neurocollapse.dynamics.rows import InMemory, RowFile, Store, stored_layout, stored_memory
from neurocollapse.dynamics.snapshots import Snapshots


class Run:
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
    def open(cls, layout: Layout, path: Path | None, given: list[Tensor]) -> "Run":
        """A new run, or the one in the file."""
        if path is None:
            return cls(layout, InMemory(layout), Memory(), given)
        if not path.exists():
            return cls(layout, RowFile(path, layout), Memory(), given)
        if difference := layout.difference(stored_layout(path)):
            raise TrackerError(f"{path} tracks another run ({difference}); name another file")
        return cls(layout, RowFile(path, layout), stored_memory(path, layout), given)

    @property
    def first_unseen(self) -> int:
        """The first step that the store knows nothing of."""
        if self.store.seen is not None:
            return self.store.seen[0] + 1
        return self.memory.first_step or 0

    @property
    def stride(self) -> int:
        """The most that lay between two steps."""
        return 1 if self.store.seen is None else self.store.seen[1]

    def starts_over_at(self, step: int) -> bool:
        """Whether a run whose first step is this one is another than that in the file."""
        return self.memory.first_step is None or step <= self.memory.first_step

    def begin(self, step: int) -> None:
        """Go on with the run in the file, or start over."""
        if self.starts_over_at(step):
            self.last, self.store.seen = self.store.cut(step), None
            self.memory = Memory(list(self.given), start_is_given=bool(self.given), first_step=step)
            self.store.keep(self.memory)
        self.has_begun = True

    def go_on_behind(self, step: int) -> None:
        """Go on with the run in the file behind a step."""
        if self.memory.first_step is None:
            self.begin(step)
        elif self.last is not None and self.last > step:
            self._go_back_to(step + 1)
        self.see(step)
        self.has_begun = True

    def see(self, step: int) -> None:
        """Remember that there was such a step."""
        last, stride = self.store.seen or (step - 1, 1)
        self.store.seen = int(step), max(stride, int(step) - last)

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
            rows = analyse(steps, stacks, self.layout, self.memory, num_before=self.store.count)
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
