"""Image folders, one per class; an image is decoded when its sample is asked for."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from neurocollapse.data.labelled import DataError, Labelled, checked_labels, index_tensor
from neurocollapse.support.text import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
MAX_PIXELS = 50_000_000
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, eq=False, repr=False)
class LabelledImages(Labelled):
    """Labelled image files; each is decoded when it is asked for.

    Parameters
    ----------
    paths
        The image files.
    labels
        Tensor of shape (samples,), integers in [0, number of classes).
    classes
        The class names, in label order.
    name : str, default "images"
        What is shown in reports.
    image_size : int, optional
        Side in pixels: the shorter side is scaled to it and the centre cropped. None takes images as they are; all
        must then be of the first one's size.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "images"
    image_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", checked_labels(self.labels, len(self.classes)))
        if len(self.paths) != len(self.labels):
            raise DataError(f"`paths` and `labels` must be as many, got {len(self.paths)} and {len(self.labels)}")
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"`image_size` must be a positive number of pixels, got {self.image_size!r}")
        if self.image_size is not None and self.image_size**2 > MAX_PIXELS:
            size = 12 * self.image_size**2 / 2**30
            raise DataError(
                f"`image_size` = {self.image_size} would make every image {size:.1f} GiB, at most {MAX_PIXELS} pixels "
                "are decoded; pass a smaller one"
            )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image as a tensor of shape (3, rows, columns), red green blue in [0, 1], and its label."""
        pixels = read_image(self.paths[index], self.image_size)
        first = pixels.shape if self.image_size else _shape(self.paths[0])
        if pixels.shape != first:
            raise DataError(
                f"{self.paths[index]} is {pixels.shape[1]} × {pixels.shape[2]} pixels where {self.paths[0].name} is "
                f"{first[1]} × {first[2]}; pass image_size to bring all images to one size"
            )
        return pixels, int(self.labels[index])

    def subset(self, indices: Iterable[int] | Tensor) -> Self:
        chosen = index_tensor(indices, len(self))
        return replace(self, paths=tuple(self.paths[i] for i in chosen.tolist()), labels=self.labels[chosen])

    def __repr__(self) -> str:
        return f"LabelledImages({self.name!r}, {len(self)} images, {len(self.classes)} classes)"


def read_folder(root: Path, split: str, image_size: int | None = None) -> LabelledImages:
    """Find the images of ROOT/split/class/*.png, *.jpg, …; without folders for the splits, ROOT/class is "train".

    The classes are the folders' names in sorted order. The test split may be called val.

    Raises
    ------
    DataError
        If there are no class folders, or one of them holds no image.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    base = _split_folder(root, split)
    folders = sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(f"{base} must hold one folder of images for each class, got none")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS and path.is_file())
        if not images:
            raise DataError(f"{folder} holds no image ({' '.join(FORMATS)}); remove the folder or add images")
        paths += images
        labels += [label] * len(images)
    classes = tuple(folder.name for folder in folders)
    return LabelledImages(tuple(paths), torch.tensor(labels, device="cpu"), classes, f"{root.name}/{split}", image_size)


def read_image(path: Path, image_size: int | None) -> Tensor:
    """Decode one image file to float32 of shape (3, rows, columns) in [0, 1]."""
    with _opened(path) as image:
        rgb = image.convert("RGB")
    if image_size is not None:
        from PIL import Image, ImageOps  # slow import, needed only here

        rgb = ImageOps.fit(rgb, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(rgb, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


@contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """Open an image of a known format, of 8 bits a channel, and of a size that may be decoded."""
    from PIL import Image  # slow import, needed only here

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower than pillow's
            opened = Image.open(path, formats=sorted(set(FORMATS.values())))
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path} has {image.width} × {image.height} pixels, at most {MAX_PIXELS} are decoded")
            if image.mode in DEEP_MODES:
                raise DataError(f"{path} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
            yield image
    except DataError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise DataError(f"{path} cannot be decoded: {first_line(error)}") from error


def _shape(path: Path) -> torch.Size:
    """Return the shape an image would have, from its header."""
    with _opened(path) as image:
        return torch.Size((3, image.height, image.width))


def _split_folder(root: Path, split: str) -> Path:
    """Return the folder that holds the class folders of a split."""
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    has_splits = any((root / name).is_dir() for names in SPLIT_FOLDERS.values() for name in names)
    if has_splits or split != "train":
        raise DataError(
            f"{root} has no folder {SPLIT_FOLDERS[split][0]!r} for this split; add it or ask for another split"
        )
    return root
