"""Reads the images from IDX files in a folder; torchvision downloads missing data sets.

As a program it fills a folder and reads every file once, for the image's build: datasets.py FOLDER
"""

import contextlib
import gzip
import math
import socket
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import torch

# Name of each dataset in torchvision and of its folder.
CLASSES = {"mnist": "MNIST", "kmnist": "KMNIST"}

# Both have ten classes of grey images of this size.
LABELS = 10
SIZE = 28

# Socket timeout of a mirror in seconds, so that a pod without a network fails instead of hanging.
MIRROR_TIMEOUT = 20

Images = tuple[torch.Tensor, torch.Tensor]


class DataError(Exception):
    """Unusable data; the text names the file."""


def load(dataset: str, folder: Path) -> tuple[Images, Images]:
    """Returns images (N x 28 x 28 bytes) and labels (N) for training, and the same for testing."""
    raw = folder / CLASSES[dataset] / "raw"
    if not any(raw.glob("*-ubyte*")):
        download(dataset, folder)
    return load_part(raw, "train"), load_part(raw, "t10k")


def load_part(raw: Path, part: str) -> Images:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    pixels, classes = read_idx(raw, images), read_idx(raw, labels)
    if len(pixels) == 0 or pixels.shape[1:] != (SIZE, SIZE):
        raise DataError(f"{raw / images}: must hold at least one image, each of {SIZE} x {SIZE}")
    if len(pixels) != len(classes):
        raise DataError(f"{raw / labels}: {len(classes)} labels for {len(pixels)} images")
    if int(classes.max()) >= LABELS:
        raise DataError(f"{raw / labels}: label {int(classes.max())} is not below {LABELS}")
    return pixels, classes.long()


def read_idx(raw: Path, name: str) -> torch.Tensor:
    """Reads an IDX file of bytes (magic, the size of each dimension, content), plain or as NAME.gz."""
    path = raw / name
    if not path.exists():
        path = raw / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{raw / name}: missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    dimensions = 3 if "idx3" in name else 1
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):  # 8: unsigned bytes
        raise DataError(f"{path}: corrupt, not an IDX file of {dimensions} dimensions")
    sizes = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(sizes):
        raise DataError(f"{path}: truncated or corrupt, {len(content) - header} bytes instead of {math.prod(sizes)}")
    if len(content) == header:
        return torch.empty(sizes, dtype=torch.uint8)
    # A bytearray, because a tensor needs writable memory.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(sizes)


def download(dataset: str, folder: Path) -> None:
    """Downloads a dataset from torchvision's mirrors; torchvision compares its checksums."""
    import torchvision  # here, because a Job that has its data saves the time and memory

    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    raw = folder / CLASSES[dataset] / "raw"
    source = getattr(torchvision.datasets, CLASSES[dataset])
    problem: Exception | None = None
    for mirror in list(source.mirrors):
        source.mirrors = [mirror]  # one at a time, because torchvision stops at the first with a wrong checksum
        try:
            raw.mkdir(parents=True, exist_ok=True)
            # In a scratch folder, so that an aborted download leaves no partial data.
            with tempfile.TemporaryDirectory(dir=folder) as scratch, contextlib.redirect_stdout(sys.stderr):
                source(scratch, download=True)
                for path in Path(scratch).rglob("*-ubyte"):
                    path.replace(raw / path.name)
            return
        except (OSError, RuntimeError) as error:
            problem = error
    raise DataError(f"{raw}: no data, and the download failed: {problem}")


if __name__ == "__main__":
    for each in CLASSES:
        try:
            (train_images, _), (test_images, _) = load(each, Path(sys.argv[1]))
        except DataError as problem:
            sys.exit(f"datasets.py: {problem}")
        print(f"{each}: {len(train_images)} training images, {len(test_images)} test images")
