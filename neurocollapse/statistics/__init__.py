"""Class moments: a mergeable value, its streaming accumulator, its file format and its all-reduce."""

from neurocollapse.statistics.accumulator import MomentAccumulator
from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.collection import LayerRecord, MomentCollection
from neurocollapse.statistics.collectives import JointRun, ProcessError, joint_run
from neurocollapse.statistics.distributed import all_reduce, process_group, reduce_collection, sum_over_processes
from neurocollapse.statistics.in_memory import ClassMoments  # which gets its from_features there
from neurocollapse.statistics.kernel_choice import kernel_on
from neurocollapse.statistics.labels import LabelError, check_labels, one_hot_columns
from neurocollapse.statistics.mapped import free_disk
from neurocollapse.statistics.memory import (
    MemoryPlan,
    MemoryPlanError,
    Precision,
    StateBytes,
    memory_limit,
    state_bytes,
    working_dtype,
)
from neurocollapse.statistics.reader import Reader
from neurocollapse.support.state import StateFileError, read_state, write_state

__all__ = [
    "ClassBatch",
    "ClassMoments",
    "JointRun",
    "LabelError",
    "LayerRecord",
    "MemoryPlan",
    "MemoryPlanError",
    "MomentAccumulator",
    "MomentCollection",
    "Precision",
    "ProcessError",
    "Reader",
    "StateBytes",
    "StateFileError",
    "all_reduce",
    "check_labels",
    "free_disk",
    "joint_run",
    "kernel_on",
    "memory_limit",
    "one_hot_columns",
    "process_group",
    "read_state",
    "reduce_collection",
    "state_bytes",
    "sum_over_processes",
    "working_dtype",
    "write_state",
]
