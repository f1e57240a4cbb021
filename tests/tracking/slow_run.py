"""Record a run of some steps in a file, printing each step that is finished, and go on from what is there."""

import os
import sys
from pathlib import Path

import torch
from torch import nn

import neurocollapse as nc

NUM_STEPS = 30
END = "end"
"""The line behind those of a process."""


def model_at(step: int) -> nn.Module:
    """The network at a step: what training would have made of it."""
    torch.manual_seed(step)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def record_all(path: Path) -> nc.FeatureTracker:
    """All steps that are not in the file yet."""
    batches = [(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)]
    model = model_at(0)
    tracker = nc.track(model, batches, path=path, progress=False, quantities="compression, geometry")
    last = int(nc.open(path)["step"][-1]) if path.exists() else -1
    for step in range(last + 1, NUM_STEPS):
        model.load_state_dict(model_at(step).state_dict())
        tracker.record(step, half=step / 2)
        print(step, flush=True)
    return tracker


def serve(path: Path) -> None:
    """For each line that comes in, record in a process of its own, which prints its number first.

    Processes are forked where nothing has been computed yet, so that only the first one pays for the imports.
    """
    for _ in sys.stdin:
        process = os.fork()
        if not process:
            print(os.getpid(), flush=True)
            record_all(path)
            os._exit(0)
        os.waitpid(process, 0)
        print(END, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
