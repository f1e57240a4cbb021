"""Class moments of all processes together."""

import datetime
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from neurocollapse.statistics.collection import LayerRecord, MomentCollection
from neurocollapse.statistics.collectives import JointRun, joint_run
from neurocollapse.statistics.kernels import mirrored
from neurocollapse.statistics.moments import ClassMoments
from neurocollapse.statistics.reader import Reader

_DIFFERENT = "the processes have collected different layers; give every rank the same model and options"


def all_reduce(collection: MomentCollection, *, group: Any = None) -> MomentCollection:
    """The moments of the samples of all processes, on every process.

    For each class the lowest rank that has seen it gives its reference to all; every rank moves its sums to that
    reference by exact algebra, and only then are they added: nothing cancels, and the result does not depend on which
    rank saw what. Ranks without a single sample take part.

    Parameters
    ----------
    collection : MomentCollection
        This process's moments: the same layers on every rank.
    group : torch.distributed process group, optional
        Default: the world.

    Raises
    ------
    RuntimeError
        If torch.distributed is not initialised, or another rank dies or stays away longer than the group's timeout;
        as `ProcessError` if another rank fails, or is in another run.
    ValueError
        If the ranks have collected different layers, or read them with different weights.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("all_reduce needs torch.distributed; call init_process_group first or start with torchrun")
    with joint_run("all_reduce", group=group) as run:
        return reduce_collection(collection, run)


def reduce_collection(collection: MomentCollection, run: JointRun) -> MomentCollection:
    """Do what `all_reduce` does, as a part of a longer run.

    Parameters
    ----------
    collection : MomentCollection
        The moments of this process.
    run : JointRun
        The run that all processes are in.
    """
    shape = run.agreed(_shape(collection), _DIFFERENT)
    if shape is None:
        raise ValueError("no process has collected a single sample; check the loader")
    records = [LayerRecord(**record) for record in shape["layers"]]
    own_classes = max((value.num_classes for value in collection.values()), default=0)
    num_classes = run.reduced_number(own_classes, dist.ReduceOp.MAX)
    moments, layers = {}, {}
    for record, features in zip(records, shape["num_features"], strict=True):
        own = collection.get(record.name) or ClassMoments.empty(0, features, covariance=shape["covariance"])
        moments[record.name] = _reduced_moments(own.padded(num_classes), run)
        skipped = collection.record(record.name).num_skipped if record.name in collection else 0
        layers[record.name] = replace(record, num_skipped=run.reduced_number(skipped, dist.ReduceOp.SUM))
    num_samples = run.reduced_number(collection.num_samples, dist.ReduceOp.SUM)
    readers = {name: _shared_reader(collection.readers.get(name), sizes, run) for name, sizes in shape["readers"]}
    different = [name for name, reader in collection.readers.items() if not reader.equals(readers[name])]
    if run.reduced_number(len(different), dist.ReduceOp.MAX):
        raise ValueError(
            "the processes read the features with linear layers of different weights; give every rank the same model"
        )
    return MomentCollection(moments, layers, collection.attributes | {"num_samples": num_samples}, readers)


def sum_over_processes(tensors: Mapping[str, Tensor], run: JointRun) -> dict[str, Tensor]:
    """The sums over all processes of float64 tensors on the CPU; a process that has none takes part.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Those of this process; float64, on the CPU.
    run : JointRun
        The run that all processes are in.

    Raises
    ------
    ValueError
        If the ranks that have any have others, or of other shapes.
    """
    own = {name: list(tensor.shape) for name, tensor in tensors.items()}
    agreed = run.agreed(own, "the processes have added up different quantities; give every rank the same ones")
    zeros = {name: torch.zeros(shape, dtype=torch.float64, device="cpu") for name, shape in (agreed or {}).items()}
    return {name: run.reduced(tensors.get(name, zero), dist.ReduceOp.SUM) for name, zero in zeros.items()}


@contextmanager
def process_group(*, timeout: float = 600.0) -> Iterator[tuple[int, int]]:
    """Rank and number of the processes that torchrun has started; (0, 1) for a process on its own.

    Moments travel on the CPU, so the group is gloo's. A rank that dies or stays away longer than `timeout` seconds
    ends the others with a RuntimeError.

    Parameters
    ----------
    timeout : float, default 600.0
        Seconds to wait for the other processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        yield 0, 1
        return
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def _reduced_moments(moments: ClassMoments, run: JointRun) -> ClassMoments:
    """The moments of one layer over all processes, which agree on the numbers of classes and features."""
    count = run.reduced(moments.count, dist.ReduceOp.SUM)
    owner = run.reduced(torch.where(moments.count > 0, run.rank, run.world), dist.ReduceOp.MIN)
    mine = (owner == run.rank).unsqueeze(1)
    reference = run.reduced(torch.where(mine, moments.reference.double(), 0.0), dist.ReduceOp.SUM)
    local = moments.shifted_to(reference)
    offset_sum = run.reduced(local.offset_sum, dist.ReduceOp.SUM)
    return ClassMoments(
        count=count,
        reference=reference,
        offset_sum=offset_sum,
        offset_square=run.reduced(local.offset_square, dist.ReduceOp.SUM),
        within_scatter=_reduced_scatter(local, count, offset_sum, run),
    )


def _shared_reader(own: Reader | None, sizes: tuple[int, int, bool], run: JointRun) -> Reader:
    """The reader of the lowest rank that has one; its numbers of outputs and features, and whether it has a bias."""
    outputs, features, has_bias = sizes
    mine = run.reduced_number(run.world if own is None else run.rank, dist.ReduceOp.MIN) == run.rank
    zeros = functools.partial(torch.zeros, dtype=torch.float64, device="cpu")
    weight = own.weight if own is not None and mine else zeros(outputs, features)
    weight = run.reduced(weight, dist.ReduceOp.SUM)
    if not has_bias:
        return Reader(weight)
    bias = own.bias if own is not None and own.bias is not None and mine else zeros(outputs)
    return Reader(weight, run.reduced(bias, dist.ReduceOp.SUM))


def _reduced_scatter(local: ClassMoments, count: Tensor, offset_sum: Tensor, run: JointRun) -> Tensor | None:
    """Pooled scatter about the means of all: each rank adds n_k Δ_k Δ_kᵀ for its distance Δ_k from them."""
    if local.within_scatter is None:
        return None
    own = local.count.clamp(min=1).unsqueeze(1)
    distance = local.offset_sum / own - offset_sum / count.clamp(min=1).unsqueeze(1)
    weighted = distance * local.count.unsqueeze(1)
    return mirrored(run.reduced(local.within_scatter + distance.T @ weighted, dist.ReduceOp.SUM))


def _shape(collection: MomentCollection) -> dict[str, Any]:
    """What an empty process needs to know in order to take part; the number of classes may differ between ranks."""
    if not len(collection):
        return {}
    moments = list(collection.values())
    return {
        "layers": [asdict(replace(collection.record(name), num_skipped=0)) for name in collection],
        "num_features": [value.num_features for value in moments],
        "readers": [
            [name, [reader.num_outputs, reader.num_features, reader.bias is not None]]
            for name, reader in collection.readers.items()
        ],
        "covariance": any(value.within_scatter is not None for value in moments),
    }
