"""Train under the Trainer of transformers, as one of the processes of torch.distributed, until an alarm ends it."""

# ruff: noqa: E402  # torchvision is made ready before transformers imports it

import os
import runpy
import sys
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1]
OPERATORS = runpy.run_path(str(TESTS / "conftest.py"))  # of torchvision, kept for the whole run

from torch import distributed

import neurocollapse as nc

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    shared = runpy.run_path(str(Path(__file__).with_name("test_transformers_callback.py")))
    folder, alarm = Path(sys.argv[1]), nc.Alarm("compression@penultimate > 0", action="stop")
    callback = nc.callbacks.Transformers(shared["PROBE"], every=2, alarms=[alarm], **shared["OPTIONS"])
    # Six updates: four samples for each of two processes, and a minute for those that would wait for ever.
    settings = {"per_device_train_batch_size": 4, "eval_strategy": "no", "ddp_timeout": 60}
    trainer = shared["trained"](folder, callback, **settings)
    (folder / f"rank{distributed.get_rank()}").write_text(str(trainer.state.global_step))
    distributed.destroy_process_group()
    os._exit(0)  # the trainer keeps the group, whose threads abort a process that ends while they free a tensor
