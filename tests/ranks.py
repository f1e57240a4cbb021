"""Processes of torch.distributed that a test starts."""

import subprocess
import sys
from pathlib import Path


def run_ranks(driver: Path, world_size: int, folder: Path) -> None:
    """Run a program once a rank, with the rank, their number and a folder, and see all of them end well."""
    command = [sys.executable, "-W", "error", str(driver)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world_size), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(world_size)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world_size, "\n".join(errors)
