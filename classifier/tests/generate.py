#!/usr/bin/python3
"""Writes data sets of the shape and format of MNIST and KMNIST: drawn glyphs, shifted and with noise.

usage: generate.py FOLDER [TRAIN [TEST [shuffled]]]     (60000 and 10000 images)

The same arguments write the same bytes. "shuffled" permutes the labels, so that they do not depend on the
images and a network can only reach chance.
"""

import struct
import sys
from pathlib import Path

import numpy as np

SIZE = 28
SCALE = 3  # image pixels per glyph pixel
SHIFT = 3  # maximum in pixels, in each direction
CONTRAST = 0.4  # of the faintest glyph, from 0 to 1
NOISE = 0.25  # standard deviation, from 0 to 1
SEED = 7

# Seven rows of five pixels for each glyph.
DIGITS = """
01110 00100 01110 11111 00010 11111 00110 11111 01110 01110
10001 01100 10001 00010 00110 10000 01000 00001 10001 10001
10011 00100 00001 00100 01010 11110 10000 00010 10001 10001
10101 00100 00010 00010 10010 00001 11110 00100 01110 01111
11001 00100 00100 00001 11111 00001 10001 01000 10001 00001
10001 00100 01000 10001 00010 10001 10001 01000 10001 00010
01110 01110 11111 01110 00010 01110 01110 01000 01110 01100
"""
LETTERS = """
01110 11110 01110 11100 11111 11111 01110 10001 01110 00111
10001 10001 10001 10010 10000 10000 10001 10001 00100 00010
10001 10001 10000 10001 10000 10000 10000 10001 00100 00010
11111 11110 10000 10001 11110 11110 10111 11111 00100 00010
10001 10001 10000 10001 10000 10000 10001 10001 00100 00010
10001 10001 10001 10010 10000 10000 10001 10001 00100 10010
10001 11110 01110 11100 11111 10000 01111 10001 01110 01100
"""


def glyphs(drawing: str) -> np.ndarray:
    rows = [line.split() for line in drawing.split("\n") if line]
    small = np.array([[[int(pixel) for pixel in row[glyph]] for row in rows] for glyph in range(10)], np.float32)
    return small.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def draw(random: np.random.Generator, shapes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _, height, width = shapes.shape
    images = np.zeros((len(labels), SIZE, SIZE), np.float32)
    for image, label in zip(images, labels):
        down, right = random.integers(-SHIFT, SHIFT + 1, 2)
        top, left = (SIZE - height) // 2 + down, (SIZE - width) // 2 + right
        image[top : top + height, left : left + width] = shapes[label] * random.uniform(CONTRAST, 1)
    images += random.normal(0, NOISE, images.shape).astype(np.float32)
    return (images.clip(0, 1) * 255).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def generate(folder: Path, train: int = 60_000, test: int = 10_000, shuffled: bool = False) -> None:
    for name, drawing in (("MNIST", DIGITS), ("KMNIST", LETTERS)):
        random = np.random.default_rng(SEED)
        raw = folder / name / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for part, count in (("train", train), ("t10k", test)):
            labels = random.integers(0, 10, count)
            write(raw / f"{part}-images-idx3-ubyte", draw(random, glyphs(drawing), labels))
            write(raw / f"{part}-labels-idx1-ubyte", random.permutation(labels) if shuffled else labels)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), *map(int, sys.argv[2:4]), shuffled=sys.argv[4:] == ["shuffled"])
