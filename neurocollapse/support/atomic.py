"""Writing a file in one step: a reader, or a writer that is killed, finds the old file or the new one."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from neurocollapse.support.text import first_line, visible

with suppress(ImportError):  # Windows, where no folder can be opened, and none removed that is in use
    from fcntl import LOCK_EX, LOCK_NB, flock


class ResultFileError(ValueError):
    """A result file that is missing, damaged, or cannot be written."""


@contextmanager
def replacing(target: str | PathLike[str], *, error: type[Exception] = ResultFileError) -> Iterator[Path]:
    """A path to write to; what is there takes the target's place if the block ends without an error.

    The path has the target's own name, in a hidden folder beside it that only this process can enter. Permissions of
    an existing target stay as they are, and a link stays a link. What is not a regular file, such as a device or a
    pipe, is written into. What a killed writer of the same target has left behind is removed.

    Parameters
    ----------
    target
        What was there before stays until then.
    error
        What to raise.

    Raises
    ------
    error
        If the system refuses to write: its folder does not exist, the disk is full, …; on one line.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "numbers.txt")
    >>> with replacing(target) as part:
    ...     _ = part.write_text("1 2 3")
    >>> target.read_text(), [path.name for path in target.parent.iterdir()]
    ('1 2 3', ['numbers.txt'])
    """
    try:
        found = _status(target)
        special = found is not None and not stat.S_ISREG(found.st_mode)
        with _poured_into(target) if special else _renamed_to(Path(os.path.realpath(target)), found) as part:
            yield part
    except OSError as failure:
        raise error(f"cannot write {visible(target)}: {_reason(failure, target)}") from failure


def write(
    target: str | PathLike[str], content: str | bytes | memoryview, *, error: type[Exception] = ResultFileError
) -> Path:
    """Write text (as UTF-8) or bytes as `replacing` does, and return the path.

    Examples
    --------
    >>> write(Path(tempfile.mkdtemp(), "note.txt"), "done").read_text()
    'done'
    """
    with replacing(target, error=error) as part:
        part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return Path(target)


def check_writable(target: str | PathLike[str], *, error: type[Exception] = ResultFileError) -> None:
    """Raise what `replacing` would raise now, before there is anything to write."""
    try:
        found = _status(target)
        if found is None or stat.S_ISREG(found.st_mode):
            folder, handle = _own_folder(Path(os.path.realpath(target)))
            _removed(folder, handle)
    except OSError as failure:
        raise error(f"cannot write {visible(target)}: {_reason(failure, target)}") from failure


def _status(target: str | PathLike[str]) -> os.stat_result | None:
    """What is there, behind links."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return found


@contextmanager
def _poured_into(target: str | PathLike[str]) -> Iterator[Path]:
    """A file elsewhere, whose bytes go into a device or pipe once they are complete."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, Path(target).name)
        yield part
        with part.open("rb") as content, os.fdopen(os.open(target, os.O_WRONLY), "wb") as stream:
            shutil.copyfileobj(content, stream)


@contextmanager
def _renamed_to(target: Path, found: os.stat_result | None) -> Iterator[Path]:
    """A file beside the target, which takes its place."""
    _remove_leftovers(target)
    folder, handle = _own_folder(target)
    try:
        part = folder / target.name
        part.touch(exist_ok=False)
        mode = stat.S_IMODE((found or part.stat()).st_mode)  # a writer may set another mode
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        for owner in ((found.st_uid, -1), (-1, found.st_gid)) if found else ():
            with suppress(OSError, AttributeError):  # not everybody may, and Windows has no owners of this kind
                os.chown(part, *owner)
        part.chmod(mode)
        os.replace(part, target)
        _remember(target.parent)
    finally:
        _removed(folder, handle)


def _own_folder(target: Path) -> tuple[Path, int | None]:
    """A new folder beside the target, locked until this process ends, however it does."""
    while True:
        folder = Path(tempfile.mkdtemp(".part", _prefix(target), target.parent))
        handle = None
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            flock(handle, LOCK_EX)
        if folder.exists():
            return folder, handle
        if handle is not None:  # another process took it for a leftover before it was locked
            os.close(handle)


def _removed(folder: Path, handle: int | None) -> None:
    """Remove a folder of one's own and give up its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    if handle is not None:
        os.close(handle)


def _remove_leftovers(target: Path) -> None:
    """Remove the folders of killed writers of this target: those that nobody has locked."""
    prefix = _prefix(target)
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(".part") and entry.is_dir(follow_symlinks=False):
                _remove_unless_locked(entry.path)


def _remove_unless_locked(folder: str) -> None:
    """Remove a folder if its writer is gone, or leave it where that cannot be known."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            flock(handle, LOCK_EX | LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _prefix(target: Path) -> str:
    """How the names of a target's folders begin; no longer than a file's name may be."""
    return f".{target.name[:40]}."


def _remember(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do this."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(failure: OSError, target: str | PathLike[str]) -> str:
    """What the system says, and what to do."""
    if not Path(os.path.realpath(target)).parent.is_dir():
        return "there is no such folder; name a folder that exists"
    if failure.errno == errno.ENOSPC:
        return f"{failure.strerror}; free some, or name a file on another disk"
    return f"{failure.strerror or first_line(failure)}; name another file"
