"""What the tests share: generated data, and the classifier as a process."""

import importlib.util
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

# Of a process that has nothing to wait for; the longest training here takes a third of it on one slow core.
PATIENCE = 120


def environment(**variables: str) -> dict[str, str]:
    """The tests' own environment without what would change the classifier, and with these variables."""
    ours = ("DATASET", "TYPE", "DATA_DIR", "PYTHONUNBUFFERED")
    rest = {name: value for name, value in os.environ.items() if name not in ours}
    # On a busy machine several threads wait for each other for most of the time.
    return {**rest, "OMP_NUM_THREADS": "1", **variables}


def classify(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", CLASSIFY], env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Without torch every file is skipped as a whole, and pytest would call that a failure."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and importlib.util.find_spec("torch") is None:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder of data, made once for each number of images."""
    made: dict[tuple, Path] = {}

    def make(train: int, test: int, shuffled: bool = False) -> Path:
        from generate import generate  # not above: it needs numpy, which comes with torch

        key = (train, test, shuffled)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("data")
            generate(made[key], *key)
        return made[key]

    return make


@pytest.fixture
def data(make_data: Callable[..., Path]) -> Path:
    """Few images: five epochs of three steps. Tests read them only."""
    return make_data(250, 50)


@pytest.fixture
def endless(make_data: Callable[..., Path]) -> Path:
    """More images than a test waits for."""
    return make_data(20_000, 50)
