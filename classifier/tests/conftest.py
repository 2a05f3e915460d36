"""Fixtures of the tests: generated data, and the classifier as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent
CLASSIFY = str(FOLDER / "classify.py")
sys.path[:0] = [str(FOLDER), str(FOLDER / "tests")]
sys.dont_write_bytecode = True

# Timeout of one process in seconds; the longest training takes a third of it on one slow core.
TIMEOUT = 120


def environment(**variables: str) -> dict[str, str]:
    """Returns the tests' environment without the classifier's variables, plus these."""
    ours = ("DATASET", "TYPE", "DATA_DIR", "PYTHONUNBUFFERED")
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    # On a busy machine several threads mostly wait for each other.
    return {**rest, "OMP_NUM_THREADS": "1", **variables}


def classify(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", CLASSIFY], env=environment(**variables), capture_output=True, text=True, timeout=TIMEOUT
    )


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function that creates a folder of data, once for each number of images."""
    made: dict[tuple, Path] = {}

    def make(train: int, test: int, shuffled: bool = False) -> Path:
        from generate import generate  # here, because it needs numpy, which comes with torch

        key = (train, test, shuffled)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("data")
            generate(made[key], *key)
        return made[key]

    return make


@pytest.fixture
def data(make_data: Callable[..., Path]) -> Path:
    """A few images: five epochs of three steps. Read-only for tests."""
    return make_data(250, 50)


@pytest.fixture
def endless(make_data: Callable[..., Path]) -> Path:
    """So many images that no test sees the end of the training."""
    return make_data(20_000, 50)
