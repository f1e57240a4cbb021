"""Passes over the parts of one data set in several processes: what must be the same on all, and what must not."""

import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import distributed as dist
from torch import nn

from neurocollapse.data.sharding import random_states_kept, share_of
from neurocollapse.hooks import CaptureWarning
from neurocollapse.passes.digest import tensors_digest
from neurocollapse.passes.loop import Pass
from neurocollapse.statistics import JointRun, MomentCollection, joint_run


@contextmanager
def joined(name: str, *, distributed: bool) -> Iterator[JointRun | None]:
    """A joint run of all processes, where one is asked for and there can be one; else None."""
    if not (distributed and dist.is_available() and dist.is_initialized()):
        yield None
        return
    with joint_run(name) as run:
        yield run


def notes_before(first: Pass, run: JointRun | None) -> list[str]:
    """Raise if the processes have other models or data, which nobody wants to learn at the end; notes on the rest."""
    if run is None:
        return _notes_on_ignored_processes()
    model = first.recorder.model
    if not _is_sharded(model):
        if len(set(run.numbers_of_all(tensors_digest(model.parameters())))) > 1:
            raise ValueError(
                "the models of the processes have different weights; load the same checkpoint on every rank, or "
                "broadcast the weights of one"
            )
        if len(set(run.numbers_of_all(tensors_digest(model.buffers())))) > 1:
            return _said(
                "the models of the processes have different buffers, such as running statistics of batch "
                "normalisation; broadcast those of one rank"
            )
    return []


def check_counted_once(first: Pass, collection: MomentCollection, run: JointRun) -> None:
    """Raise if the processes have together counted more samples than there are."""
    share = share_of(first.loader)
    total = int(collection.attributes["num_samples"])
    if share.is_divided:
        known = share.num_total if share.num_total is not None else total
        if max(run.numbers_of_all(int(total > known))):
            raise ValueError(
                f"the processes have counted {total} samples of a data set of {known}, some of them twice; divide it "
                "with torch's DistributedSampler, whose padding is recognised"
            )
        return
    read = run.numbers_of_all(_data_digest(first) if first.progress.num_samples else -1 - run.rank)
    if len(set(read)) < len(read):
        raise ValueError(
            "several processes have counted the same samples; give each a part of the data, for instance with "
            "DataLoader(…, sampler=DistributedSampler(data)), or pass distributed=False"
        )


def _notes_on_ignored_processes() -> list[str]:
    """A note if there are other processes that this one does not count with."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return []
    return _said(
        f"there is a group of {dist.get_world_size()} processes, but these are the numbers of this one's own samples; "
        "pass distributed=True for those of all"
    )


def _said(note: str) -> list[str]:
    """A note that is also a warning."""
    warnings.warn(note, CaptureWarning, stacklevel=2)
    return [note]


def _is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the weights."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    wrapped = fsdp is not None and any(isinstance(part, fsdp.FullyShardedDataParallel) for part in model.modules())
    return wrapped or any(hasattr(parameter, "placements") for parameter in model.parameters())


def _data_digest(first: Pass) -> int:
    """Checksum by which processes that read the same data are known: of the batches, or of the data where they mix."""
    data = getattr(first.loader, "dataset", None)
    try:
        with random_states_kept():
            item = data[0]  # type: ignore[index]  # where it has none, the batches count
        values = [np.asarray(value) for value in (item if isinstance(item, tuple | list) else [item])]
        return zlib.crc32(b"".join(value.tobytes() for value in values), len(data))  # type: ignore[arg-type]
    except Exception:  # reading runs code of the user's
        return first.progress.digest
