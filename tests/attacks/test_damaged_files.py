"""One flipped bit or a lost end, anywhere in any kind of file that the package goes on from, is refused in one line."""

import ast
import random
import re
import runpy
from pathlib import Path

import pytest

import neurocollapse

KINDS = runpy.run_path(str(Path(__file__).with_name("state_files.py")))["KINDS"]
WRITERS = {
    "dynamics/rows.py",
    "experiments/adapters/small_bert.py",
    "lowrank/adapters/storage.py",
    "passes/checkpoint.py",
    "statistics/collection.py",
    "train/checkpoints.py",
    "train/descent_file.py",
    "transfer/tuned.py",
}
"""Modules that write state; each has a kind above, `dynamics/rows.py` two."""


def restore(folder: Path, content: dict[str, bytes]) -> None:
    """Leave these files in a folder and no others."""
    for path in folder.iterdir():
        path.unlink()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def damage(kind: str, folder: Path, *, flips: int, cuts: int, seed: int) -> list[str]:
    """Read a file after every damage; what was accepted, or refused in other words than one line."""
    source = random.Random(f"{kind} {seed}")
    path = KINDS[kind].make(folder)
    content = {one.name: one.read_bytes() for one in folder.iterdir()}
    whole = content[path.name]
    damaged = {}
    for _ in range(flips):
        place, bit = source.randrange(len(whole)), source.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        damaged[f"bit {bit} of byte {place} of {len(whole)}"] = bytes(changed)
    for _ in range(cuts):
        length = source.randrange(len(whole))
        damaged[f"the first {length} bytes of {len(whole)}"] = whole[:length]
    wrong = []
    for what, changed in damaged.items():
        restore(folder, content | {path.name: changed})
        said = ""
        try:
            KINDS[kind].read(path)
        except ValueError as error:  # all of the package's errors about files are
            said = str(error)
        if not re.fullmatch(r"[^\n]{10,300}", said):
            wrong.append(f"{what}: {said or 'accepted'}")
    restore(folder, content)
    KINDS[kind].read(path)  # as it was, it is read
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_damages_of_every_kind_of_file_are_refused(kind: str, tmp_path: Path) -> None:
    assert damage(kind, tmp_path, flips=6, cuts=3, seed=0) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damages_of_every_kind_of_file_are_refused(kind: str, tmp_path: Path) -> None:
    assert damage(kind, tmp_path, flips=200, cuts=50, seed=1) == []


def test_no_module_writes_state_that_is_not_attacked_here() -> None:
    root = Path(neurocollapse.__path__[0])
    found = set()
    for path in root.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(getattr(call, "id", "") in ("write_state", "save_file") for call in calls):
            found.add(str(path.relative_to(root)))
    assert found - {"support/state.py"} == WRITERS
