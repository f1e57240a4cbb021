"""Resume files of processes that count their batches together: all of them continue from the same step."""

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from neurocollapse.passes.checkpoint import KIND, Checkpoint, Progress
from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import JointRun
from neurocollapse.support.state import StateFileError, read_state
from neurocollapse.support.text import visible

NO_FILE = -1


class JointCheckpoint(Checkpoint):
    """The file of one of several processes that take every step together.

    All of them save after the same step. A process that is killed while it saves leaves some files a step ahead of the
    others, so that each keeps the one before as well, ending in ".previous": the run continues from the last step that
    all have.

    Parameters
    ----------
    path, settings, device
        See `Checkpoint`.
    joint : JointRun
    """

    def __init__(
        self, path: str | PathLike[str] | None, settings: dict[str, Any], device: torch.device, joint: JointRun
    ) -> None:
        super().__init__(path, settings, device)
        self.joint = joint
        self._saved_step = NO_FILE

    def load(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Put the last state that all processes have saved, if there is one, into `progress` and the sinks."""
        if self.path is not None:
            self._is_late = bool(self.joint.reduced_number(int(self._is_late), dist.ReduceOp.MAX))  # all or none
            self._choose(self.path)
        super().load(progress, sinks)
        self._saved_step = progress.num_steps or NO_FILE

    def finish_batch(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Remember what follows from a step, and save it if any process finds that it is time."""
        super().finish_batch(progress, sinks)
        if self.path is not None and self.joint.reduced_number(int(super().is_due()), dist.ReduceOp.MAX):
            self.save_soon(progress, sinks)

    def is_due(self) -> bool:
        """Never on its own account."""
        return False

    def save(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Save the state, unless it has been saved."""
        if progress.num_steps != self._saved_step:
            super().save(progress, sinks)

    def _write(self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the file, and keep what was saved before."""
        if path.exists():
            os.replace(path, _previous(path))
        super()._write(path, header, tensors)
        self._saved_step = header["num_steps"]

    def save_asked(self) -> None:
        """Save nothing: the others have gone on."""

    def _choose(self, path: Path) -> None:
        """Let `path` be the file of the last step that all processes have saved.

        Raises
        ------
        StateFileError
            If there is no such step.
        """
        previous = _previous(path)
        if previous.exists() and not path.exists():
            os.replace(previous, path)
        own = _step_of(path)
        steps = self.joint.numbers_of_all(own)
        if len(set(steps)) == 1:
            return
        if own > min(steps) and previous.exists():
            os.replace(previous, path)
        if len(set(self.joint.numbers_of_all(_step_of(path)))) > 1:
            raise StateFileError(
                f"{visible(path)} and the files of the other processes are not of the same run; delete all of them to "
                "start again"
            )


def _previous(path: Path) -> Path:
    """Where the file before the last one is kept."""
    return path.with_name(f"{path.name}.previous")


def _step_of(path: Path) -> int:
    """The step after which a file was saved; less than any where there is none."""
    return int(read_state(path, KIND)[0]["num_steps"]) if path.exists() else NO_FILE
