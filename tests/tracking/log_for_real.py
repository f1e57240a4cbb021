"""Track a run into TensorBoard, W&B offline and trackio, and print what each of them holds afterwards, as JSON."""

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import neurocollapse as nc

STEPS = (1, 5, 20)


def main(folder: Path) -> None:
    """Everything goes into one folder."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
    os.environ |= {"TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1"}
    held = {"tensorboard": tensorboard(folder / "events"), "wandb": wandb(folder), "trackio": trackio()}
    print(json.dumps(held))


def recorded(log: nc.tracking.tracker.Log) -> list[list[float]]:
    """A run of some steps; what the tracker holds of one number, by step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [(torch.randn(60, 4), torch.arange(60) % 3)]
    tracker = nc.track(model, batches, log=log, quantities="compression")
    for step in STEPS:
        tracker.record(step, loss=1 / step)
        nn.init.normal_(model[0].weight)
    found = tracker.to_dataset()["compression"].sel(layer="2")
    return [[step, value] for step, value in zip(STEPS, found.values.tolist(), strict=True)]


def tensorboard(folder: Path) -> dict[str, list[list[float]]]:
    """Scalars of an event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        expected = recorded(lambda numbers, step: [writer.add_scalar(*one, step) for one in numbers.items()])
    events = EventAccumulator(str(folder)).Reload()
    found = [[one.step, one.value] for one in events.Scalars("compression/2")]
    return {"expected": expected, "found": found, "steps_of_loss": [one.step for one in events.Scalars("loss")]}


def wandb(folder: Path) -> dict[str, list[list[float]]]:
    """The history in the file of an offline run."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    with wandb.init(project="neurocollapse") as run:
        expected = recorded(run.log)
    wandb.teardown()  # its service writes behind the end of the run
    (file,) = folder.rglob("run-*.wandb")
    found, steps = [], []
    for data in wandb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        row = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}
        if "compression/2" in row:
            found.append([row["_step"], row["compression/2"]])
            steps += [row["_step"]] if "loss" in row else []
    return {"expected": expected, "found": found, "steps_of_loss": steps}


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: checksum, length and kind before each part, blocks of 32 KiB."""
    block, head, whole, last = 32_768, 7, 1, 4
    parts, at = b"", head  # behind W&B's own header
    while at + head <= len(content):
        if block - at % block < head:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + head])
        parts += content[at + head : at + head + length]
        at += head + length
        if kind in (whole, last):
            yield parts
            parts = b""


def trackio() -> dict[str, list[list[float]]]:
    """Metrics in its database."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    run = trackio.init(project="neurocollapse", embed=False)
    expected = recorded(run.log)
    trackio.finish()
    rows = SQLiteStorage.get_logs("neurocollapse", run.name)
    found = [[row["step"], row["compression/2"]] for row in rows]
    return {"expected": expected, "found": found, "steps_of_loss": [row["step"] for row in rows if "loss" in row]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
