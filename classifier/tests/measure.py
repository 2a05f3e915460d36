#!/usr/bin/python3
"""Measures time, memory and accuracy of one full training of each type under a CPU limit.

usage: measure.py [CPUS [DATA_DIR]]        (as root; by default 0.9 CPUs and generated data)
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generate import generate
from limited import cgroup

CLASSIFY = Path(__file__).resolve().parent.parent / "classify.py"


def measure(dataset: str, network: str, data: Path, cpus: float) -> None:
    environment = {**os.environ, "DATASET": dataset, "TYPE": network, "DATA_DIR": str(data)}
    with cgroup(cpus) as procs:
        begin = time.monotonic()
        training = subprocess.Popen(
            ["/usr/bin/python3", CLASSIFY],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: procs.write_text("0"),
        )
        lines = training.stdout.read().splitlines()
        _, status, usage = os.wait4(training.pid, 0)
        seconds = time.monotonic() - begin
    cpu = usage.ru_utime + usage.ru_stime
    memory = usage.ru_maxrss / 1024
    print(f"{dataset} {network}: status {status}, {seconds:.0f} s, {cpu:.0f} s of CPU, {memory:.0f} MB at most")
    print(f"  {lines[2]}; {lines[-1]}", flush=True)


def main(cpus: str = "0.9", folder: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if not folder:
            generate(Path(scratch))
        for dataset in ("mnist", "kmnist"):
            for network in ("ff", "cnn"):
                measure(dataset, network, Path(folder or scratch), float(cpus))


main(*sys.argv[1:])
