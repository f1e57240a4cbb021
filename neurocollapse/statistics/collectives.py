"""What several processes compute together: every exchange says which run it belongs to, and how far that has come."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

_TOKEN_BITS = 62
"""Bits of a checksum that fits into a signed 64-bit integer, as does its negative."""
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
        Rank of this process, and the number of processes.
    """

    def __init__(self, name: str, group: Any = None) -> None:
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self._number = _runs_begun.get(_whole(group), 0) + 1
        _runs_begun[_whole(group)] = self._number
        self._name = name
        self._exchanges = 0
        self.has_ended = False

    def reduced(self, value: Tensor, operation: Any) -> Tensor:
        """The reduction of a tensor over all processes.

        Parameters
        ----------
        value : Tensor
            This process's part, which stays as it is.
        operation : torch.distributed.ReduceOp
            Sum, maximum, minimum, ….
        """
        self._meet(f"{operation} {value.dtype} {tuple(value.shape)}")
        return self._collected(value.clone(), operation)

    def reduced_number(self, value: int, operation: Any) -> int:
        """The reduction of an integer over all processes.

        Parameters
        ----------
        value : int
            This process's number.
        operation : torch.distributed.ReduceOp
            Sum, maximum, minimum, ….
        """
        return int(self.reduced(torch.tensor(value, device="cpu"), operation))

    def numbers_of_all(self, value: int) -> list[int]:
        """The integers of all processes, in the order of their ranks.

        Parameters
        ----------
        value : int
            This process's number.
        """
        numbers = torch.zeros(self.world, dtype=torch.int64, device="cpu")
        numbers[self.rank] = value
        found: list[int] = self.reduced(numbers, dist.ReduceOp.SUM).tolist()
        return found

    def gathered(self, value: Tensor) -> list[Tensor]:
        """The vectors of all processes, in the order of their ranks; they may differ in length.

        Parameters
        ----------
        value : Tensor of one dimension
            This process's vector.
        """
        lengths = self.numbers_of_all(value.numel())
        padded = value.new_zeros(max(lengths))
        padded[: value.numel()] = value
        parts = [torch.empty_like(padded) for _ in lengths]
        self._meet(f"gather {value.dtype} {max(lengths)}")
        with self._connected():
            dist.all_gather(parts, padded, group=self.group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def exchanged(self, parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Send a vector to each process, and return those that the processes have for this one.

        Parameters
        ----------
        parts : sequence of Tensor
            One vector for each process, in the order of ranks.
        lengths : sequence of int
            Lengths of the vectors that the processes have for this one.
        """
        received = parts[0].new_empty(sum(lengths))
        self._meet(f"exchange {received.dtype}")
        with self._connected():
            sent = [len(part) for part in parts]
            dist.all_to_all_single(received, torch.cat(list(parts)), list(lengths), sent, group=self.group)
        return list(received.split(list(lengths)))

    def given_to_first(self, value: Tensor, shapes: Sequence[torch.Size]) -> Iterator[Tensor]:
        """The tensors of all processes in turn, on the first process; nothing elsewhere.

        Parameters
        ----------
        value : Tensor
            This process's tensor.
        shapes : sequence of torch.Size
            Shapes of the tensors of all processes.
        """
        self._meet(f"give {value.dtype}")
        with self._connected():
            if self.rank:
                dist.send(value.contiguous(), group_dst=0, group=self.group)
                return
            yield value
            for source, shape in enumerate(shapes[1:], 1):
                received = value.new_empty(shape)
                dist.recv(received, group_src=source, group=self.group)
                yield received

    def agreed(self, own: dict[str, Any], refusal: str) -> dict[str, Any] | None:
        """What the lowest rank with something to say says; None if none has. All others with something must agree.

        Parameters
        ----------
        own : dict
            What this process says; empty if nothing.
        refusal : str
            Message of the error where two processes say different things.
        """
        text = json.dumps(own).encode() if own else b""
        source = self.reduced_number(self.rank if text else self.world, dist.ReduceOp.MIN)
        if source == self.world:
            return None
        length = self.reduced_number(len(text) if self.rank == source else 0, dist.ReduceOp.SUM)
        payload = torch.zeros(length, dtype=torch.uint8, device="cpu")
        if self.rank == source:
            payload = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        agreed: dict[str, Any] = json.loads(self.reduced(payload, dist.ReduceOp.SUM).numpy().tobytes())
        if self.reduced_number(int(bool(text) and own != agreed), dist.ReduceOp.MAX):
            raise ValueError(refusal)
        return agreed

    def end(self, *, failed: bool = False) -> None:
        """Meet the other processes for the last time.

        Parameters
        ----------
        failed : bool, default False
            Whether this process ends with an error.
        """
        self._meet("end", failed=failed)
        self.has_ended = True

    def _meet(self, purpose: str, *, failed: bool = False) -> None:
        """Raise on every process unless all of them are here and well."""
        self._exchanges += 1
        text = f"{self._number} {self._name} {self._exchanges} {purpose}"
        token = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _TOKEN_BITS)
        said = [token, -token, -self._number, self.rank if failed else self.world]
        heard = self._collected(torch.tensor(said, dtype=torch.int64, device="cpu"), dist.ReduceOp.MIN).tolist()
        _runs_begun[_whole(self.group)] = -heard[2]  # whoever has missed a run counts it
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
        """The collective."""
        with self._connected():
            dist.all_reduce(value, op=operation, group=self.group)
        return value

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """A run whose connections fail has ended."""
        try:
            yield
        except RuntimeError:
            self.has_ended = True
            raise


def _whole(group: Any) -> Any:
    """The group itself; the world's is not kept, for its threads run as long as anything refers to it.

    A thread of gloo that lets go of a tensor while the interpreter ends aborts the process.
    """
    return dist.group.WORLD if group is None else group


@contextmanager
def joint_run(name: str, *, group: Any = None) -> Iterator[JointRun]:
    """Open a run of all processes, at whose end they meet: if one fails, the others raise `ProcessError`.

    A process that is interrupted waits for nobody; if it comes back in another run, the next meeting shows it.

    Parameters
    ----------
    name : str
        What is run; the same on all processes.
    group : torch.distributed process group, optional
        Default: the world.
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
