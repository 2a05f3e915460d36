#!/usr/bin/env python3
"""Trains a small network on images of ten classes, then prints its accuracy on the test images.

The environment variable DATASET is mnist or kmnist, TYPE is ff (one hidden layer) or cnn
(convolutions), and DATA_DIR is the folder with the data (see datasets.py). In Kubernetes the accuracy
is also the container's termination message.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

TYPES = ("ff", "cnn")
DATASETS = ("mnist", "kmnist")


def choice(variable: str, allowed: tuple[str, ...]) -> str:
    """Returns the value of an environment variable; any other value than these ends the program."""
    value = os.environ.get(variable)
    if value not in allowed:
        state = "not set" if value is None else repr(value)
        sys.exit(fail(f"the environment variable {variable} is {state}; fix: set it to {' or '.join(allowed)}", 2))
    return value


def fail(problem: str, status: int) -> int:
    print(f"classify.py: {problem}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    # Both before the import of torch, which takes a second or more: an error is reported at once, and a signal ends
    # the program. The kernel drops signals to the first process of a container unless it has a handler. There is
    # nothing to clean up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    settings = choice("DATASET", DATASETS), choice("TYPE", TYPES)

import torch
from torch import nn

from datasets import LABELS, SIZE, DataError, Images, load

DEFAULT_DATA_DIR = "/data"

# Kubernetes creates this file in each container and copies it into the pod's status (terminationMessagePath).
TERMINATION_LOG = Path("/dev/termination-log")

EPOCHS = 5
BATCH = 100  # images a step
REPORT = 100  # steps between two progress lines
HIDDEN = 500  # neurons of ff
LEARNING_RATE = 0.001  # Adam's default; falls to zero, so that the weights converge
SEED = 1  # any fixed seed: the same input gives the same numbers


def main(dataset: str, network: str) -> int:
    log(f"dataset: {dataset}")
    log(f"type: {network}")
    limit = cpu_limit()
    log(f"cpu limit: {'none' if limit is None else f'{limit:g}'}")
    if limit is not None:  # without a limit torch uses OMP_NUM_THREADS or the number of cores
        torch.set_num_threads(threads(limit))
    torch.manual_seed(SEED)
    try:
        training, test = load(dataset, Path(os.environ.get("DATA_DIR") or DEFAULT_DATA_DIR))
    except DataError as error:
        return fail(str(error), 1)
    net = ff() if network == "ff" else cnn()
    train(net, training)
    permille = accuracy(net, test)
    log(f"Accuracy of the network on the 10K test images: {permille // 10} %")
    write_message(permille / 1000)
    return 0


def log(line: str) -> None:
    print(line, flush=True)


def write_message(share: float) -> None:
    """Writes the accuracy, from 0 to 1, as the container's termination message."""
    with contextlib.suppress(OSError):
        # Opened without creating it: outside Kubernetes there is no such file, and none must remain in /dev.
        file = os.open(TERMINATION_LOG, os.O_WRONLY | os.O_TRUNC)
        with open(file, "w") as message:
            json.dump({"accuracy": share}, message, separators=(",", ":"))


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Returns the lowest CPU limit of this process's cgroup and its parents; None without a limit."""
    limits = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"  # version 2
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"  # version 1
        else:
            continue
        # In a container the own cgroup may be the root, although its path is that of the host.
        above = Path(path).parts[1:]
        for depth in range(len(above) + 1):
            limits.extend(quotas(mount.joinpath(*above[:depth])))
    return min(limits, default=None)


def quotas(cgroup: Path) -> Iterator[float]:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
        except OSError:
            continue
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)


def threads(limit: float) -> int:
    """Returns the number of threads that fit the limit; the kernel would throttle more in every period."""
    return max(1, min(len(os.sched_getaffinity(0)), int(limit)))


def ff() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, LABELS))


def cnn() -> nn.Module:
    """Two convolutions, each of which halves the image: 28 x 28, 14 x 14, 7 x 7."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, kernel_size=5, padding=2), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, kernel_size=5, padding=2), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, LABELS)),
    )


def train(net: nn.Module, training: Images) -> None:
    images, labels = training
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=EPOCHS * steps)
    net.train()
    for epoch in range(1, EPOCHS + 1):
        for step, batch in enumerate(torch.randperm(len(images)).split(BATCH), 1):
            loss = nn.functional.cross_entropy(net(prepare(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % REPORT == 0 or step == steps:
                log(f"Epoch [{epoch}/{EPOCHS}], Step [{step}/{steps}], Loss: {loss.item():.4f}")


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Scales bytes to -1..1. Called for each batch, because the whole data would take four times the memory."""
    return images.unsqueeze(1).float() / 127.5 - 1


def accuracy(net: nn.Module, test: Images) -> int:
    """Returns how many of a thousand images are classified correctly, rounded down."""
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in zip(*(part.split(BATCH) for part in test)):
            correct += int((net(prepare(images)).argmax(1) == labels).sum())
    return 1000 * correct // len(test[0])


if __name__ == "__main__":
    sys.exit(main(*settings))
