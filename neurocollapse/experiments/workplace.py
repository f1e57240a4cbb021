"""Where an experiment finds its data, and keeps what is finished so that an interrupted run can continue."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr

from neurocollapse import data
from neurocollapse.data import DataError, Labelled
from neurocollapse.support import files
from neurocollapse.support.atomic import write

SETTING_FILE = "setting.json"
PART_OF = "part_of"
"""Attribute in the file of a part: the experiment and the setting that it was made in, as JSON."""
FOLDERS = {"mnist": "mnist", "fashion-mnist": "fashion-mnist", "cifar10": "cifar10"}
"""Where in the data root each of the named data sets lies."""


@dataclass(frozen=True)
class Workplace:
    """The surroundings of a run, which do not change its result.

    Attributes
    ----------
    data_root
        Folder with `mnist/`, `fashion-mnist/`, `cifar10/`, … for settings that name data without a place.
    folder
        Where finished parts are kept and looked for; None keeps nothing.
    progress
        Show progress bars on a terminal.
    claim
        Whose parts the folder holds, as `claimed_by` sets it.
    """

    data_root: Path | None = None
    folder: Path | None = None
    progress: bool = True
    claim: str = field(default="", repr=False)

    def claimed_by(self, name: str, setting: Any) -> "Workplace":
        """Reserve the folder for one experiment in one setting, so that no run continues from another's parts.

        Parameters
        ----------
        name : str
            Name of the experiment.
        setting
            Its setting; what is already in the folder must have been made in the same.

        Raises
        ------
        ValueError
            If the folder holds parts of another experiment or setting, or is none, or cannot be used.
        """
        claim = json.dumps({"experiment": name, "setting": asdict(setting)}, indent=1)  # here, to fail before the run
        if self.folder is None:
            return self
        folder = Path(self.folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; name a folder in which finished parts are kept")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _claim(folder / SETTING_FILE, claim)
        except OSError as error:
            raise ValueError(f"cannot keep parts in {folder}: {error.strerror}; name another folder") from error
        return replace(self, folder=folder, claim=claim)

    def has_parts(self) -> bool:
        """Whether the folder holds parts of an earlier run, of which this one is the rest."""
        return self.folder is not None and any(path.name != SETTING_FILE for path in self.folder.iterdir())

    def samples(self, spec: str, *, split: str = "train") -> Labelled:
        """Open labelled data: any data spec, or "mnist", "fashion-mnist" or "cifar10" from the data root.

        Parameters
        ----------
        spec : str
            A data spec, as `nc.data.open` takes it, or the name of a data set below the data root.
        split : str, default "train"
            "train" or "test".

        Raises
        ------
        DataError
            If data is named without a place and there is no data root, or reading fails.
        """
        if spec in FOLDERS:
            if self.data_root is None:
                raise DataError(
                    f"{spec} needs files: name the folder that holds {FOLDERS[spec]}/ with --data-root, "
                    f"or set data={spec}:ROOT"
                )
            spec = f"{spec}:{Path(self.data_root) / FOLDERS[spec]}"
        return data.open(spec, split=split)

    def file(self, name: str) -> Path | None:
        """The file for checkpoints of one part, for `resume=` of `fit` and `descend`; None without a folder.

        Parameters
        ----------
        name : str
            Name of the part.
        """
        return None if self.folder is None else self.folder / name

    def part(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Return a finished part from the folder, or compute it and keep it there for the next time.

        Parameters
        ----------
        name : str
            Name of the part, under which it is kept.
        compute : callable
            Called without arguments where the part is not there yet; returns a dataset.

        Raises
        ------
        ValueError
            If the file that is there is damaged, or was made in another setting.
        """
        path = self.file(f"{name}.nc")
        if path is not None and path.exists():
            return self._kept(path)
        dataset = compute()
        if path is not None:
            files.save(dataset.assign_attrs({PART_OF: self.claim}), path)
        return dataset

    def _kept(self, path: Path) -> xr.Dataset:
        """A part from its file."""
        files.check_sealed(path)
        found = files.open(path)
        if not isinstance(found, xr.Dataset) or found.attrs.get(PART_OF) != self.claim:
            raise ValueError(f"{path} is no part of this experiment in this setting; remove it or name another folder")
        del found.attrs[PART_OF]
        return found


def _claim(path: Path, claim: str) -> None:
    """Write a claim, or raise unless the one that is there is the same."""
    if not path.exists():
        write(path, claim)
        return
    try:
        same = json.loads(path.read_bytes()) == json.loads(claim)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it holds no setting; name another folder for the parts") from error
    if not same:
        raise ValueError(f"{path.parent} holds parts of another experiment or setting; name another folder")
