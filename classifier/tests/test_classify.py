"""Black-box tests of the classifier: environment, output, exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is missing; on Debian: apt-get install python3-torch")

import classify as program  # noqa: E402  (it needs torch)
from conftest import CLASSIFY, TIMEOUT, classify, environment  # noqa: E402
from limited import cgroup  # noqa: E402

# Time from a signal to the end in seconds: the grace period of Kubernetes.
GRACE_PERIOD = 30

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed, for namespaces")


@pytest.mark.parametrize("dataset", ["mnist", "kmnist"])
@pytest.mark.parametrize("network", ["ff", "cnn"])
def test_it_prints_its_settings_the_loss_of_each_epoch_and_the_accuracy(
    dataset: str, network: str, data: Path
) -> None:
    done = classify(DATASET=dataset, TYPE=network, DATA_DIR=str(data))
    assert (done.returncode, done.stderr) == (0, "")
    expected = [f"dataset: {dataset}", f"type: {network}", r"cpu limit: (none|[\d.]+)"]
    expected += [rf"Epoch \[{epoch}/5\], Step \[3/3\], Loss: \d\.\d{{4}}" for epoch in range(1, 6)]
    expected += [r"Accuracy of the network on the 10K test images: \d{1,3} %"]
    lines = done.stdout.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


def test_sixty_thousand_images_are_six_hundred_steps_and_every_hundredth_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    program.train(tiny, (torch.zeros(60_000, 28, 28, dtype=torch.uint8), torch.zeros(60_000, dtype=torch.long)))
    printed = [line.rsplit(" ", 1)[0] for line in capsys.readouterr().out.splitlines()]
    every = [(epoch, step) for epoch in range(1, 6) for step in range(100, 601, 100)]
    assert printed == [f"Epoch [{epoch}/5], Step [{step}/600], Loss:" for epoch, step in every]


def test_each_line_is_flushed(endless: Path) -> None:
    with start(endless) as training:
        assert wait_for(training, "Epoch [1/5], Step [100/200]").startswith("dataset: mnist\n")
        training.kill()
        assert "Epoch [5/5]" not in training.stdout.read(), "the lines were buffered until the end"


@pytest.mark.parametrize("network", ["ff", "cnn"])
def test_the_same_input_gives_the_same_numbers(network: str, data: Path) -> None:
    first, second = (classify(DATASET="kmnist", TYPE=network, DATA_DIR=str(data)).stdout for _ in range(2))
    assert "Loss: " in first
    assert first == second


@pytest.mark.parametrize(("dataset", "network"), [("mnist", "ff"), ("mnist", "cnn"), ("kmnist", "cnn")])
def test_it_learns(dataset: str, network: str, make_data: Callable[..., Path]) -> None:
    done = classify(DATASET=dataset, TYPE=network, DATA_DIR=str(make_data(6_000, 1_000)))
    assert percent(done) >= 97


@pytest.mark.parametrize("network", ["ff", "cnn"])
def test_shuffled_labels_give_chance(network: str, make_data: Callable[..., Path]) -> None:
    done = classify(DATASET="mnist", TYPE=network, DATA_DIR=str(make_data(2_000, 1_000, shuffled=True)))
    # Chance is 10; the standard deviation for 1000 images is 1.
    assert 6 <= percent(done) <= 14


def percent(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-2])


CGROUPS = {
    "version 2": ("0::/\n", {"cpu.max": "90000 100000\n"}, 0.9),
    "version 2, no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    "version 2, limit of the parent": (
        "0::/pod/classifier\n",
        {"pod/cpu.max": "90000 100000\n", "pod/classifier/cpu.max": "max 100000\n", "other/cpu.max": "10000 100000\n"},
        0.9,
    ),
    "version 2, the lowest of several": (
        "0::/pod/classifier\n",
        {"pod/cpu.max": "90000 100000\n", "pod/classifier/cpu.max": "200000 100000\n"},
        0.9,
    ),
    "version 1": (
        "5:memory:/\n4:cpuset:/\n3:cpu,cpuacct:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        2.5,
    ),
    "version 1, no limit": ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    "version 1, a path of the host": (
        "3:cpu:/kubepods/pod1/2\n",
        {"cpu/cpu.cfs_quota_us": "90000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.9,
    ),
    "none": ("", {}, None),
}


@pytest.mark.parametrize(("own", "files", "limit"), CGROUPS.values(), ids=CGROUPS.keys())
def test_the_cpu_limit_comes_from_the_cgroup(
    own: str, files: dict[str, str], limit: float | None, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert program.cpu_limit(tmp_path) == limit


def test_the_number_of_threads_fits_the_cpu_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert [program.threads(limit) for limit in (0.1, 0.9, 1.9, 2, 3.5, 64)] == [1, 1, 1, 2, 3, 4]


def test_under_a_real_limit_it_prints_the_limit_and_trains_with_one_thread(make_data: Callable[..., Path]) -> None:
    images = make_data(2_000, 50)
    try:
        with cgroup(0.9) as procs:
            procs.read_text()
    except OSError as error:
        pytest.skip(f"cannot create a cgroup: {error}")
    # Without a limit torch uses two threads, which shows that the limit makes the difference.
    two = {"OMP_NUM_THREADS": "2"}
    with start(images, variables=two) as training:
        wait_for(training, "Epoch [1/5]")
        assert len(busy(training)) == 2
    with cgroup(0.9) as procs, start(images, variables=two, preexec_fn=lambda: procs.write_text("0")) as training:
        assert "cpu limit: 0.9\n" in wait_for(training, "Epoch [1/5]")
        assert busy(training) == {training.pid}


def busy(training: subprocess.Popen) -> set[int]:
    """Returns the threads with more CPU time than a start takes."""
    return {int(task.name) for task in Path(f"/proc/{training.pid}/task").iterdir() if ran(task) > 1}


def ran(task: Path) -> int:
    """Returns the CPU time of a thread in ticks of 10 ms."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_sigterm_ends_it_in_the_middle_of_the_training(endless: Path) -> None:
    with start(endless) as training:
        wait_for(training, "Epoch [1/5]")
        assert end(training, training.pid) == 143


def test_sigterm_ends_it_while_torch_is_being_imported(endless: Path) -> None:
    with start(endless) as training:
        assert end_once_handled(training, training.pid) == 143
        assert training.stdout.read() == ""


@NEEDS_ROOT
@pytest.mark.parametrize("when", ["training", "starting"])
def test_sigterm_ends_it_as_the_first_process_of_a_container(when: str, endless: Path) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        pytest.skip("cannot create a PID namespace")
    with start(endless, "unshare", "--pid", "--fork", "--kill-child") as unshare:
        first = child(unshare)
        if when == "starting":
            assert end_once_handled(unshare, first) == 143
        else:
            wait_for(unshare, "Epoch [1/5]")
            assert end(unshare, first) == 143


def child(parent: subprocess.Popen) -> int:
    while not (children := Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()):
        assert parent.poll() is None, "the process has ended"
        time.sleep(0.001)
    return int(children[0])


def end_once_handled(training: subprocess.Popen, pid: int) -> int:
    """Sends SIGTERM as soon as the process has a handler, which is long before the import of torch ends."""
    bit = 1 << (signal.SIGTERM - 1)
    while not caught(pid) & bit:
        assert training.poll() is None, "the process has ended"
        time.sleep(0.001)
    return end(training, pid)


def caught(pid: int) -> int:
    mask = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(mask[1], 16) if mask else 0


def end(training: subprocess.Popen, pid: int) -> int:
    os.kill(pid, signal.SIGTERM)
    return training.wait(timeout=GRACE_PERIOD)


@NEEDS_ROOT
@pytest.mark.parametrize("access", ["rw", "ro"])
def test_it_runs_with_read_only_file_systems_and_writes_only_the_termination_message(
    access: str, data: Path, tmp_path: Path
) -> None:
    # As in a container, /dev is a file system of its own, in which the kubelet mounts the file of the message.
    make_read_only = """
        message=$1 access=$2 dev=$3
        shift 3
        mount --make-rprivate / && mount -t tmpfs dev "$dev" && touch "$dev/termination-log" || exit 77
        for each in null urandom; do touch "$dev/$each" && mount --bind "/dev/$each" "$dev/$each" || exit 77; done
        mount --rbind "$dev" /dev || exit 77
        cut -d' ' -f2 /proc/self/mounts | while read -r mount; do mount -o remount,bind,ro "$mount" 2>/dev/null; done
        mount --bind "$message" /dev/termination-log && mount -o "remount,bind,$access" /dev/termination-log || exit 77
        for folder in /tmp /var/tmp "$HOME" "$DATA_DIR" /dev .; do ! touch "$folder/new" 2>/dev/null || exit 78; done
        exec "$@"
    """
    if shutil.which("unshare") is None:
        pytest.skip("unshare is missing")
    message, dev = tmp_path / "message", tmp_path / "dev"
    message.touch()
    dev.mkdir()
    command = ["unshare", "--mount", "sh", "-c", make_read_only, "sh", message, access, dev, sys.executable, CLASSIFY]
    variables = environment(DATASET="mnist", TYPE="cnn", DATA_DIR=str(data))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode in (1, 77) and not done.stdout and ("unshare" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"cannot create a mount namespace: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("Accuracy of the network")
    if access == "rw":
        # The log has the same number, as whole percent.
        assert re.fullmatch(r'\{"accuracy":[01]\.\d{1,3}\}', message.read_text())
        assert round(1000 * json.loads(message.read_text())["accuracy"]) // 10 == percent(done)
    else:
        assert message.read_text() == ""


def test_the_termination_message_replaces_the_content_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "TERMINATION_LOG", tmp_path / "message")
    program.TERMINATION_LOG.write_text("a line that is longer than the message")
    program.write_message(0.978)
    assert program.TERMINATION_LOG.read_text() == '{"accuracy":0.978}'


def test_without_kubernetes_there_is_no_termination_message_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "message", tmp_path, tmp_path / "missing/message"):
        monkeypatch.setattr(program, "TERMINATION_LOG", path)
        program.write_message(0.978)
    assert list(tmp_path.iterdir()) == []


def start(
    data: Path, *before: str, variables: dict[str, str] | None = None, preexec_fn: Callable[[], object] | None = None
) -> "Training":
    command = [*before, sys.executable, "-B", CLASSIFY]
    variables = environment(DATASET="mnist", TYPE="cnn", DATA_DIR=str(data), **variables or {})
    return Training(command, env=variables, stdout=subprocess.PIPE, text=True, preexec_fn=preexec_fn)


class Training(subprocess.Popen):
    """A process that is killed at the end of its block, also after an error."""

    def __exit__(self, *reason: object) -> None:
        self.kill()
        super().__exit__(*reason)


def wait_for(training: subprocess.Popen, beginning: str) -> str:
    """Reads to the first line with this beginning and returns the text up to it."""
    text = ""
    for line in training.stdout:
        text += line
        if line.startswith(beginning):
            return text
    raise AssertionError(f"no line begins with {beginning!r}: {text}")
