"""What several processes compute together: every exchange says which run it belongs to, and how far that has come."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

_TOKEN_BITS = 62
"""Of a checksum that fits into a signed 64-bit integer, its negative too."""
_runs_begun: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Runs that each process group has begun."""


class ProcessError(RuntimeError):
    """Another process has failed, or is not in the same run as this one."""


class JointRun:
    """One run of all processes of a group.

    Before anything is exchanged, all processes meet: they compare a checksum of the run's number, its name, the number
    of the exchange and what is exchanged. So a process whose run failed, and which has gone on to the next one, is
    never added to one that is still in the former. A process that fails comes to the next meeting and says so.

    Parameters
    ----------
    name : str
        The same on all processes.
    group : torch.distributed process group, optional
        Default: the world.

    Attributes
    ----------
    rank, world : int
        Of this process, and the number of processes.
    """

    def __init__(self, name: str, group: Any = None) -> None:
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self._key = dist.group.WORLD if group is None else group
        self._number = _runs_begun.get(self._key, 0) + 1
        _runs_begun[self._key] = self._number
        self._name = name
        self._exchanges = 0
        self.has_ended = False

    def reduced(self, value: Tensor, operation: Any) -> Tensor:
        """The reduction over all processes of a copy of `value`: the collective itself works in place."""
        self._meet(f"{operation} {value.dtype} {tuple(value.shape)}")
        return self._collected(value.clone(), operation)

    def reduced_number(self, value: int, operation: Any) -> int:
        """The reduction of an integer over all processes."""
        return int(self.reduced(torch.tensor(value, device="cpu"), operation))

    def numbers_of_all(self, value: int) -> list[int]:
        """An integer of every process, in the order of their ranks."""
        numbers = torch.zeros(self.world, dtype=torch.int64, device="cpu")
        numbers[self.rank] = value
        found: list[int] = self.reduced(numbers, dist.ReduceOp.SUM).tolist()
        return found

    def agreed(self, own: dict[str, Any], refusal: str) -> dict[str, Any] | None:
        """What the lowest rank says that says anything, None if none does; every other that does must say the same."""
        text = json.dumps(own).encode() if own else b""
        source = self.reduced_number(self.rank if text else self.world, dist.ReduceOp.MIN)
        if source == self.world:
            return None
        length = self.reduced_number(len(text) if self.rank == source else 0, dist.ReduceOp.SUM)
        payload = torch.zeros(length, dtype=torch.uint8, device="cpu")
        if self.rank == source:
            payload = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        agreed: dict[str, Any] = json.loads(bytes(self.reduced(payload, dist.ReduceOp.SUM).tolist()))
        if self.reduced_number(int(bool(text) and own != agreed), dist.ReduceOp.MAX):
            raise ValueError(refusal)
        return agreed

    def end(self, *, failed: bool = False) -> None:
        """Meet for the last time."""
        self._meet("end", failed=failed)
        self.has_ended = True

    def _meet(self, purpose: str, *, failed: bool = False) -> None:
        """Raise on every process unless all of them are here and well."""
        self._exchanges += 1
        text = f"{self._number} {self._name} {self._exchanges} {purpose}"
        token = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _TOKEN_BITS)
        said = [token, -token, -self._number, self.rank if failed else self.world]
        heard = self._collected(torch.tensor(said, dtype=torch.int64, device="cpu"), dist.ReduceOp.MIN).tolist()
        _runs_begun[self._key] = -heard[2]  # whoever has missed a run counts it
        self.has_ended = failed or heard[3] < self.world or heard[0] != -heard[1]
        if failed:
            return
        if heard[3] < self.world:
            raise ProcessError(f"process {heard[3]} has failed, which ends this run on all; its own error says why")
        if self.has_ended:
            raise ProcessError(
                f"the processes are not in the same run: this one is in number {self._number} of its group "
                f"({self._name}); give every rank the same calls in the same order"
            )

    def _collected(self, value: Tensor, operation: Any) -> Tensor:
        """The collective; a run whose connections fail has ended."""
        try:
            dist.all_reduce(value, op=operation, group=self.group)
        except RuntimeError:
            self.has_ended = True
            raise
        return value


@contextmanager
def joint_run(name: str, *, group: Any = None) -> Iterator[JointRun]:
    """A run of all processes, at whose end they meet: if one fails, the others raise `ProcessError`.

    A process that is interrupted waits for nobody; if it comes back in another run, the next meeting shows it.
    """
    run = JointRun(name, group)
    try:
        yield run
        run.end()
    except Exception:
        if not run.has_ended:
            with suppress(RuntimeError):  # of the connection; what this process failed of matters more
                run.end(failed=True)
        raise
