"""What several commands share: inputs before the work starts, and the exit code after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import neurocollapse as nc
from neurocollapse.support.atomic import check_writable
from neurocollapse.support.text import first_line, visible

if TYPE_CHECKING:
    import torch

EXIT_CODES = {"holds": 0, "violated": 1, "assumptions unmet": 3}


def check_batch(samples: "nc.data.Samples", batch_size: int) -> None:
    """Raise, before any of it is allocated, if a batch would not fit in memory."""
    from neurocollapse.data.batch_parts import tensors_in  # slow imports, needed only here
    from neurocollapse.data.limit import check_size

    count = min(batch_size, len(samples))
    size = count * sum(tensor.nbytes for tensor in tensors_in(samples[0])) if count else 0
    check_size(size, f"a batch of {count} samples", "take fewer samples, or smaller ones")


def pair_of(batch: Any, name: str) -> tuple[Any, Any]:
    """Inputs and labels of a batch that is a pair; raise for another, or none."""
    if batch is None:
        raise ValueError(f"{name} holds no samples; give data that has some")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"{name} must give (input, label) pairs here, got a {type(batch).__name__}; use analyze")
    return batch[0], batch[1]


@contextmanager
def running(model: str, samples: "nc.data.Samples") -> Iterator[None]:
    """Name the model and the data where the one fails on the other, whatever it raises."""
    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError):  # these say what is wrong
        raise
    except Exception as error:
        from neurocollapse.data.tokens import TOKENS  # slow import, needed only here

        given, advice = samples.name, "give the data that it was made for"
        inputs = samples.inputs if isinstance(samples, nc.data.LabelledData) else None
        if isinstance(samples, nc.data.TokenData):
            inputs, advice = samples.parts[TOKENS], "give shorter sequences (--length), or tokens of this model"
        if inputs is not None:
            given = f"{given}, of shape {tuple(inputs.shape[1:])}"
        if inputs is not None and not inputs.is_floating_point():
            given += f" and whole numbers up to {int(inputs.max())} (token ids)"
            if isinstance(samples, nc.data.LabelledData):
                advice = "give a model that embeds that many tokens, or save floats"
        reason = f"{type(error).__name__}: {first_line(error, most=120)}; {advice}"
        raise ValueError(
            f"{visible(model, most=40)} cannot run on {given}: {reason} (NEUROCOLLAPSE_TRACEBACK=1 shows where)"
        ) from error


def device_of(requested: str | None, rank: int) -> "torch.device":
    """The device to run on: what was asked for, else the GPU of this rank, else the CPU."""
    import torch  # slow import, needed only here

    if requested is None:
        return (
            torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
        )
    try:
        device = torch.empty(0, device=requested).device
    # torch raises RuntimeError for no such device, and the others for a kind that it was built without.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {visible(requested)!r} cannot be used: {first_line(error)}") from error
    if device.type == "meta":
        raise ValueError("--device 'meta' holds no numbers; name a device that does, such as cpu or cuda")
    return device


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
