#!/usr/bin/env python3
"""Trains a small network on images of ten classes, then prints its accuracy on the test images.

The environment variable DATASET is mnist or kmnist, TYPE is ff (one hidden layer) or cnn
(convolutions), and DATA_DIR is the folder with the data (see datasets.py).
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    # The kernel drops signals to the first process of a container unless it has a handler. It is set before
    # the import of torch, which takes a second or more. There is nothing to clean up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))

import torch
from torch import nn

from datasets import LABELS, SIZE, DataError, Images, load

TYPES = ("ff", "cnn")
DATASETS = ("mnist", "kmnist")
DEFAULT_DATA_DIR = "/data"

EPOCHS = 5
BATCH = 100  # images a step
REPORT = 100  # steps between two progress lines
HIDDEN = 500  # neurons of ff
LEARNING_RATE = 0.001  # Adam's default; falls to zero, so that the weights converge
SEED = 1  # any fixed seed: the same input gives the same numbers


class UsageError(Exception):
    """A wrong or missing environment variable."""


def main() -> int:
    try:
        dataset, network = choice("DATASET", DATASETS), choice("TYPE", TYPES)
        log(f"dataset: {dataset}")
        log(f"type: {network}")
        limit = cpu_limit()
        log(f"cpu limit: {'none' if limit is None else f'{limit:g}'}")
        if limit is not None:  # without a limit torch uses OMP_NUM_THREADS or the number of cores
            torch.set_num_threads(threads(limit))
        torch.manual_seed(SEED)
        training, test = load(dataset, Path(os.environ.get("DATA_DIR") or DEFAULT_DATA_DIR))
        net = ff() if network == "ff" else cnn()
        train(net, training)
        log(f"Accuracy of the network on the 10K test images: {accuracy(net, test)} %")
    except UsageError as error:
        return fail(str(error), 2)
    except DataError as error:
        return fail(str(error), 1)
    return 0


def choice(variable: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(variable, "")
    if value not in allowed:
        raise UsageError(f"the environment variable {variable} is {value!r}; fix: set it to {' or '.join(allowed)}")
    return value


def log(line: str) -> None:
    print(line, flush=True)


def fail(problem: str, status: int) -> int:
    print(f"classify.py: {problem}", file=sys.stderr, flush=True)
    return status


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
    """Returns the percentage of correctly classified images, rounded down."""
    net.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in zip(*(part.split(BATCH) for part in test)):
            correct += int((net(prepare(images)).argmax(1) == labels).sum())
    return 100 * correct // len(test[0])


if __name__ == "__main__":
    sys.exit(main())
