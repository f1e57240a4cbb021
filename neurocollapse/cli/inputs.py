"""What several commands share: inputs before the work starts, and the exit code after it."""

from pathlib import Path

import torch

from neurocollapse import data
from neurocollapse.cli.options import Split
from neurocollapse.support.atomic import check_writable
from neurocollapse.support.text import first_line

EXIT_CODES = {"holds": 0, "violated": 1, "assumptions unmet": 3}


def samples_of(spec: str, split: Split, image_size: int | None, limit: int | None) -> data.Labelled:
    """The data, or its first `limit` samples."""
    samples = data.open(spec, split=split.value, image_size=image_size)
    return samples if limit is None else samples.subset(range(min(limit, len(samples))))


def device_of(requested: str | None, rank: int) -> torch.device:
    """The device to run on: what was asked for, else the GPU of this rank, else the CPU."""
    if requested is None:
        return (
            torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
        )
    try:
        return torch.empty(0, device=requested).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {requested!r} cannot be used: {first_line(error)}") from error


def check_folders(*paths: Path | None) -> None:
    """Raise before any work is done if a result could not be written, or would overwrite another."""
    seen: set[Path] = set()
    for path in paths:
        if path is not None:
            check_writable(path)
            if path.resolve() in seen:
                raise ValueError(f"two results cannot both be written to {path}; name a file for each")
            seen.add(path.resolve())


def exit_code(status: str) -> int:
    """The exit code of a verdict."""
    return EXIT_CODES[status]
