"""Tests of reading, refusing and downloading data."""

import functools
import gzip
import hashlib
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing; on Debian: apt-get install python3-torch")

import datasets  # noqa: E402  (it needs torch)
from conftest import FOLDER, classify, environment  # noqa: E402

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may damage."""
    return shutil.copytree(data, tmp_path / "data")


def pack(raw: Path) -> None:
    for path in list(raw.glob("*-ubyte")):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def same(one: tuple, other: tuple) -> bool:
    return all(torch.equal(a, b) for part, twin in zip(one, other) for a, b in zip(part, twin))


def test_gzip_and_plain_files_give_the_same_images(copy: Path) -> None:
    plain = datasets.load("kmnist", copy)
    assert [tuple(part.shape) for pair in plain for part in pair] == [(250, 28, 28), (250,), (50, 28, 28), (50,)]
    assert plain[0][0].float().std() > 10, "the images are blank"
    pack(copy / "KMNIST/raw")
    assert same(plain, datasets.load("kmnist", copy))


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:count]


def replaced(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:offset] + value + content[offset + len(value) :]


DAMAGE = {
    "empty": (IMAGES, cut(0), "not an IDX file"),
    "cut in its head": (IMAGES, cut(10), "not an IDX file"),
    "cut": (IMAGES, cut(-1), "truncated"),
    "too long": (LABELS, lambda content: content + b"1", "truncated or corrupt"),
    "another format": (IMAGES, replaced(0, b"PK\3\4"), "not an IDX file"),
    "other numbers": (LABELS, replaced(2, b"\x0d"), "not an IDX file"),
    "labels for images": (IMAGES, replaced(3, b"\1"), "not an IDX file"),
    "an absurd size": (IMAGES, replaced(4, b"\xff" * 12), "truncated or corrupt"),
    "images of another size": (IMAGES, replaced(8, b"\0\0\0\x0e\0\0\0\x38"), "28 x 28"),
    "no images": (IMAGES, lambda content: content[:4] + bytes(4) + content[8:16], "at least one"),
    "too few labels": (LABELS, lambda content: content[:4] + b"\0\0\0\x01" + content[8:9], "1 labels for 250 images"),
    "an eleventh class": (LABELS, replaced(20, b"\x0a"), "label 10"),
}


@pytest.mark.parametrize(("name", "damage", "problem"), DAMAGE.values(), ids=DAMAGE.keys())
def test_the_error_names_a_damaged_file(name: str, damage: Callable[[bytes], bytes], problem: str, copy: Path) -> None:
    path = copy / "MNIST/raw" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(datasets.DataError) as raised:
        datasets.load("mnist", copy)
    assert str(path) in str(raised.value)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    "damage", [cut(100), cut(-4), cut(0), replaced(0, b"no"), replaced(-6, b"\0\0"), replaced(500, b"\0" * 50)]
)
def test_the_error_names_a_damaged_archive(damage: Callable[[bytes], bytes], copy: Path) -> None:
    pack(copy / "MNIST/raw")
    path = copy / "MNIST/raw" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(datasets.DataError) as raised:
        datasets.load("mnist", copy)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "spoil", [Path.unlink, lambda path: (path.unlink(), path.mkdir())], ids=["missing", "a folder"]
)
def test_the_error_names_a_single_missing_file_and_nothing_is_downloaded(
    spoil: Callable[[Path], object], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "download", lambda *_: pytest.fail("the data set was downloaded"))
    path = copy / "MNIST/raw" / LABELS
    spoil(path)
    with pytest.raises(datasets.DataError, match=LABELS):
        datasets.load("mnist", copy)


def test_the_classifier_reports_damage_in_one_line_with_exit_code_1(copy: Path) -> None:
    path = copy / "MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    done = classify(DATASET="mnist", TYPE="ff", DATA_DIR=str(copy))
    assert done.returncode == 1
    assert done.stderr.startswith(f"classify.py: {path}: truncated")
    assert done.stderr.count("\n") == 1
    assert "Epoch" not in done.stdout


@pytest.fixture
def mirror(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an HTTP server that is torchvision's only mirror of MNIST, with matching checksums."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is missing")
    folder = shutil.copytree(data / "MNIST/raw", tmp_path / "mirror")
    pack(folder)
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield folder
        server.shutdown()


def test_missing_data_is_downloaded_once(
    mirror: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = datasets.load("mnist", tmp_path / "new")
    assert same(first, datasets.load("mnist", data))
    assert capsys.readouterr().out == "", "the download printed to the classifier's stdout"
    shutil.rmtree(mirror)
    assert same(first, datasets.load("mnist", tmp_path / "new"))


def test_a_download_with_another_checksum_is_refused(mirror: Path, tmp_path: Path) -> None:
    path = mirror / f"{LABELS}.gz"
    path.write_bytes(gzip.compress(bytes(1000)))
    for _ in range(2):  # the first try leaves no partial data for the second
        with pytest.raises(datasets.DataError, match="the download failed"):
            datasets.load("mnist", tmp_path / "new")


def test_a_mirror_with_other_content_is_skipped(
    mirror: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / "moved").mkdir()
    for path in list(mirror.glob("*.gz")):
        (mirror / "moved" / path.name).write_text("<html>We have moved")
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [f"{MNIST.mirrors[0]}moved/", f"{MNIST.mirrors[0]}gone/", *MNIST.mirrors])
    assert same(datasets.load("mnist", tmp_path / "new"), datasets.load("mnist", data))


def test_without_data_and_network_the_error_names_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is missing")
    # A proxy that refuses every connection: nothing listens on port 9.
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = classify(DATASET="kmnist", TYPE="ff", DATA_DIR=str(tmp_path), **nowhere)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"classify.py: {tmp_path / 'KMNIST/raw'}: no data, and the download failed")


def test_the_image_build_reads_every_file(copy: Path) -> None:
    command = [sys.executable, "-B", str(FOLDER / "datasets.py"), str(copy)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = "250 training images, 50 test images"
    assert done.stdout == f"mnist: {counts}\nkmnist: {counts}\n"
    path = copy / "KMNIST/raw" / LABELS
    path.unlink()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"datasets.py: {path}: missing\n")
