"""Where the images come from: IDX files in a folder, fetched by torchvision where there are none.

As a program it fills a folder and reads all of it once, as the image's build does: datasets.py FOLDER
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

# The name of each dataset in torchvision, and of its folder.
CLASSES = {"mnist": "MNIST", "kmnist": "KMNIST"}

# Both have ten classes of grey images of this size.
LABELS = 10
SIZE = 28

# Seconds that a mirror may be silent: a pod without a network is to fail, not to hang.
MIRROR_TIMEOUT = 20

Images = tuple[torch.Tensor, torch.Tensor]


class DataError(Exception):
    """Data that cannot be used; the text names the file."""


def load(dataset: str, folder: Path) -> tuple[Images, Images]:
    """The images (N x 28 x 28 bytes) and labels (N) to train with, and those to test with."""
    raw = folder / CLASSES[dataset] / "raw"
    if not any(raw.glob("*-ubyte*")):
        download(dataset, folder)
    return load_part(raw, "train"), load_part(raw, "t10k")


def load_part(raw: Path, part: str) -> Images:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    pixels, classes = read_idx(raw, images), read_idx(raw, labels)
    if len(pixels) == 0 or pixels.shape[1:] != (SIZE, SIZE):
        raise DataError(f"{raw / images}: it has to hold images of {SIZE} x {SIZE}, and at least one")
    if len(pixels) != len(classes):
        raise DataError(f"{raw / labels}: {len(classes)} labels for {len(pixels)} images")
    if int(classes.max()) >= LABELS:
        raise DataError(f"{raw / labels}: label {int(classes.max())} is not below {LABELS}")
    return pixels, classes.long()


def read_idx(raw: Path, name: str) -> torch.Tensor:
    """An IDX file of bytes (magic, a size for each dimension, content), as it is or as NAME.gz."""
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
        raise DataError(f"{path}: truncated or corrupt, {len(content) - header} bytes in place of {math.prod(sizes)}")
    if len(content) == header:
        return torch.empty(sizes, dtype=torch.uint8)
    # A bytearray, because a tensor wants memory that may be written to.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(sizes)


def download(dataset: str, folder: Path) -> None:
    """Fetches a dataset from torchvision's mirrors; torchvision compares the checksums it knows."""
    import torchvision  # only here: it takes time and memory that no Job with its data needs

    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    raw = folder / CLASSES[dataset] / "raw"
    source = getattr(torchvision.datasets, CLASSES[dataset])
    problem: Exception | None = None
    for mirror in list(source.mirrors):
        source.mirrors = [mirror]  # one by one: torchvision gives up at the first that sends something else
        try:
            raw.mkdir(parents=True, exist_ok=True)
            # Aside, so that a download that ends early leaves nothing that looks like data.
            with tempfile.TemporaryDirectory(dir=folder) as scratch, contextlib.redirect_stdout(sys.stderr):
                source(scratch, download=True)
                for path in Path(scratch).rglob("*-ubyte"):
                    path.replace(raw / path.name)
            return
        except (OSError, RuntimeError) as error:
            problem = error
    raise DataError(f"{raw}: no data there, and none can be downloaded: {problem}")


if __name__ == "__main__":
    for each in CLASSES:
        try:
            (train_images, _), (test_images, _) = load(each, Path(sys.argv[1]))
        except DataError as problem:
            sys.exit(f"datasets.py: {problem}")
        print(f"{each}: {len(train_images)} images to train with, {len(test_images)} to test with")
