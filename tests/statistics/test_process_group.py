"""Whatever was computed together lets go of the process group: a thread of it may abort a process that ends."""

import gc
import weakref

import torch.distributed as dist

from neurocollapse.statistics import joint_run


def test_a_run_that_is_kept_does_not_keep_the_process_group() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = weakref.ref(dist.group.WORLD)
    gc.disable()  # nothing may wait for the next collection
    try:
        with joint_run("a run") as run:
            assert run.reduced_number(3, dist.ReduceOp.SUM) == 3
        dist.destroy_process_group()
        assert group() is None
    finally:
        gc.enable()
    assert run.has_ended
