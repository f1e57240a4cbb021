"""MovieLens ratings: the tab-separated `u.data` of MovieLens-100k."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neurocollapse.lowrank.observations import Observations

NUM_FIELDS = 4
LARGEST = 2**63 - 1
"""The largest number of a user or item that a tensor holds."""


class RatingsError(ValueError):
    """A ratings file that cannot be read; the message is one line."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of items by users.

    Attributes
    ----------
    users, items : Tensors of shape (ratings,), int64
        Numbered from 0 in the order of the file's own numbers.
    values : Tensor of shape (ratings,), float64
    num_users, num_items
        How many occur.
    """

    users: Tensor
    items: Tensor
    values: Tensor
    num_users: int
    num_items: int

    def __len__(self) -> int:
        return len(self.values)

    def split(self, train_fraction: float = 0.8, *, seed: int = 0) -> tuple[Observations, Observations]:
        """Split the ratings at random into training and test entries of the matrix of users and items.

        Some users and items may end up without a training rating: nothing can be known about them.

        Parameters
        ----------
        train_fraction : float, default 0.8
            Share of the ratings that become training entries.
        seed : int, default 0
            Seed of the random split.

        Raises
        ------
        ValueError
            If either part would be empty.
        """
        count = round(train_fraction * len(self)) if 0 < train_fraction < 1 else 0
        if not 0 < count < len(self):
            raise ValueError(f"`train_fraction` must leave ratings in both parts, got {train_fraction} of {len(self)}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed), device="cpu")
        train, test = (self._entries(part) for part in (order[:count], order[count:]))
        return train, test

    def _entries(self, chosen: Tensor) -> Observations:
        """Some of the ratings as matrix entries."""
        shape = (self.num_users, self.num_items)
        return Observations.of(self.users[chosen], self.items[chosen], self.values[chosen], shape, allow_empty=True)


def read_ratings(path: str | Path) -> Ratings:
    """Read ratings: one line each, user, item, rating and time separated by tabs.

    Parameters
    ----------
    path
        The file `u.data`, or the folder that holds it (`ml-100k`).

    Raises
    ------
    RatingsError
        If there is no such file, a line has other fields, or a user rates an item twice.

    References
    ----------
    Harper and Konstan, The MovieLens datasets: history and context, 2015.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "u.data"
    ...     count = file.write_text("196\\t242\\t3\\t881250949\\n186\\t302\\t4\\t891717742\\n")
    ...     ratings = read_ratings(folder)
    >>> ratings.values.tolist(), ratings.users.tolist(), ratings.num_items
    ([3.0, 4.0], [1, 0], 2)
    """
    file = Path(path)
    file = file / "u.data" if file.is_dir() else file
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise RatingsError(f"cannot read ratings from {file}: {reason}; name u.data of MovieLens-100k") from error
    rows = [_parsed(file, number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not rows:
        raise RatingsError(f"{file} holds no ratings")
    users, items, values = (torch.tensor(column, device="cpu") for column in zip(*rows, strict=True))
    known_users, users = torch.unique(users, return_inverse=True)
    known_items, items = torch.unique(items, return_inverse=True)
    pairs, counts = torch.unique(users * len(known_items) + items, return_counts=True)
    if bool((counts > 1).any()):
        pair = int(pairs[counts > 1][0])
        user, item = int(known_users[pair // len(known_items)]), int(known_items[pair % len(known_items)])
        raise RatingsError(f"{file}: user {user} rates item {item} twice; keep one of the lines")
    return Ratings(users, items, values.double(), len(known_users), len(known_items))


def _parsed(file: Path, number: int, line: str) -> tuple[int, int, float]:
    """One line as user, item and rating."""
    fields = line.split("\t")
    if len(fields) != NUM_FIELDS:
        raise RatingsError(
            f"{file}, line {number}: expected user, item, rating and time separated by tabs, got {len(fields)} "
            f"field{'s' * (len(fields) != 1)}: {line[:60]!r}"
        )
    try:
        user, item, rating, _ = int(fields[0]), int(fields[1]), float(fields[2]), int(fields[3])
    except ValueError as error:
        raise RatingsError(f"{file}, line {number}: {error}") from error
    if max(abs(user), abs(item)) > LARGEST:
        raise RatingsError(
            f"{file}, line {number}: the numbers of users and items must be below 2^63, got {line[:60]!r}"
        )
    if not abs(rating) < float("inf"):
        raise RatingsError(f"{file}, line {number}: the rating must be a finite number, got {fields[2]}")
    return user, item, rating
