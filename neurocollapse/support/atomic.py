"""Writing a file in one step: a reader, or a writer that is killed, finds the old file or the new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path, part: Path | None = None) -> Iterator[Path]:
    """A path beside the target to write to; it takes the target's place if the block ends without an error.

    Parameters
    ----------
    target
        What was there before stays until then.
    part
        Where to write. Default: a hidden name of this process's own, so that two processes do not meet.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "numbers.txt")
    >>> with replacing(target) as part:
    ...     _ = part.write_text("1 2 3")
    >>> target.read_text(), part.exists()
    ('1 2 3', False)
    """
    part = part or target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
