"""Tests of the environment variables, which need no PyTorch."""

from pathlib import Path

import pytest

from conftest import classify


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """The variable that hides an installed torch behind one that cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')\n")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, "DATASET is not set; fix: set it to mnist or kmnist"),
        ({"TYPE": "ff"}, "DATASET is not set; fix: set it to mnist or kmnist"),
        ({"TYPE": "ff", "DATASET": ""}, "DATASET is ''; fix: set it to mnist or kmnist"),
        ({"TYPE": "ff", "DATASET": "MNIST"}, "DATASET is 'MNIST'; fix: set it to mnist or kmnist"),
        ({"TYPE": "ff", "DATASET": "../mnist\n"}, "DATASET is '../mnist\\n'; fix: set it to mnist or kmnist"),
        ({"DATASET": "mnist"}, "TYPE is not set; fix: set it to ff or cnn"),
        ({"DATASET": "kmnist", "TYPE": "rnn"}, "TYPE is 'rnn'; fix: set it to ff or cnn"),
    ],
)
def test_a_wrong_or_missing_variable_is_one_line_and_exit_code_2_with_and_without_torch(
    variables: dict[str, str], problem: str, without_torch: dict[str, str]
) -> None:
    for hidden in ({}, without_torch):
        done = classify(**variables, **hidden)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"classify.py: the environment variable {problem}\n"


def test_torch_is_imported_once_the_variables_are_right(without_torch: dict[str, str]) -> None:
    done = classify(DATASET="mnist", TYPE="ff", **without_torch)
    assert done.stderr.endswith("ImportError: torch was imported\n"), done.stderr
