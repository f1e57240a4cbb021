"""Image folders: order of classes, decoding, and everything that is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurocollapse import data
from neurocollapse.data import DataError


def write_image(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


def test_classes_are_the_folders_in_sorted_order(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "zebra" / "1.png")
    write_image(tmp_path / "ant" / "2.PNG")
    write_image(tmp_path / "ant" / "1.jpg")
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    images = data.open(f"folder:{tmp_path}")
    assert images.classes == ("ant", "zebra")
    assert images.labels.tolist() == [0, 0, 1]
    assert [path.name for path in images.paths] == ["1.jpg", "2.PNG", "1.png"]
    assert torch.equal(images[2][0], torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


def test_the_order_of_creation_does_not_matter(tmp_path: Path) -> None:
    for name in "gcafhbed":
        for number in "312":
            write_image(tmp_path / name / f"{number}.png")
    images = data.open(f"folder:{tmp_path}")
    assert images.classes == tuple("abcdefgh")
    assert [path.stem for path in images.paths] == list("123") * 8


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_splits_have_folders_of_their_own(tmp_path: Path, test_name: str) -> None:
    for number in range(3):
        write_image(tmp_path / "train" / "cat" / f"{number}.png")
    write_image(tmp_path / test_name / "cat" / "0.png")
    assert len(data.open(f"folder:{tmp_path}")) == 3
    assert len(data.open(f"folder:{tmp_path}", split="test")) == 1


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA"])
def test_every_mode_of_eight_bits_becomes_rgb(tmp_path: Path, mode: str) -> None:
    write_image(tmp_path / "a" / "1.png", mode=mode)
    image, _ = data.open(f"folder:{tmp_path}")[0]
    assert image.shape == (3, 4, 6)
    assert 0 <= image.min() <= image.max() <= 1


def test_image_size_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 255  # white is exactly the central square
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    image, _ = data.open(f"folder:{tmp_path}", image_size=4)[0]
    assert torch.equal(image, torch.ones(3, 4, 4))
    assert data.open(f"folder:{tmp_path}", image_size=9)[0][0].shape == (3, 9, 9)


def test_loader_and_subset_decode_what_they_are_asked_for(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "ab"[number % 2] / f"{number}.png", seed=number)
    images = data.open(f"folder:{tmp_path}")
    batches = list(images.loader(3))
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(3, 3, 4, 6), (1, 3, 4, 6)]
    assert torch.equal(images.subset([3])[0][0], images[3][0])
    assert repr(images).endswith("4 images, 2 classes)")


def test_different_sizes_ask_for_an_image_size(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "a" / "2.png", size=(7, 7))
    with pytest.raises(DataError, match=r"2.png is 7 × 7 pixels where 1.png is 4 × 6; pass image_size"):
        list(data.open(f"folder:{tmp_path}").loader(2))


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its few bytes of pixels do not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "cannot be decoded"),
        (b"no image at all", "cannot be decoded: cannot identify"),
        (png(20_000, 20_000), "cannot be decoded: Image size .400000000 pixels. exceeds limit"),
        (png(9_000, 9_000), "has 9000 × 9000 pixels, at most 50000000"),
        (png(50, 50), "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be decoded: cannot identify"),
    ],
)
def test_corrupt_images_are_refused_with_their_path(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(contents)
    with pytest.raises(DataError, match=message) as caught:
        data.open(f"folder:{tmp_path}", image_size=8)[0]
    assert str(tmp_path / "a" / "1.png") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_images_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.jpg", size=(64, 64))
    file = tmp_path / "a" / "1.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"1.jpg cannot be decoded: image file is truncated"):
        data.open(f"folder:{tmp_path}")[0]


def test_sixteen_bit_images_are_not_clipped_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        data.open(f"folder:{tmp_path}")[0]


def test_a_vanished_image_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    images = data.open(f"folder:{tmp_path}")
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1.png cannot be decoded: .*No such file"):
        images[0]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold one folder of images for each class, got none"):
        data.open(f"folder:{tmp_path}")
    write_image(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b holds no image"):
        data.open(f"folder:{tmp_path}")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="has no folder 'test' for this split"):
        data.open(f"folder:{tmp_path}", split="test")


def test_image_size_must_be_positive(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="`image_size` must be a positive number of pixels, got 0"):
        data.open(f"folder:{tmp_path}", image_size=0)


def test_an_image_size_beyond_memory_is_refused_with_the_gigabytes(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=r"`image_size` = 100000 would make every image 111.8 GiB"):
        data.open(f"folder:{tmp_path}", image_size=100_000)
