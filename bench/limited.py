#!/usr/bin/env python3
"""Prints the server's memory at rest and under 64 parallel requests, and its CPU time, in a control group of 128 MB.

usage: bench/limited.py BINARY [POSTS]     (as root; KUBECONFIG names the cluster; POSTS premium Jobs are created, 256 by default)

Only the server is in the group; the clients and the cluster are not.
"""

import os
import subprocess
import sys
import threading

import figures

LIMIT = 128 * 1024 * 1024
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
GROUP = f"/sys/fs/cgroup/{'' if V2 else 'memory/'}img-classification-bench-{os.getpid()}"
FILES = ("memory.max", "memory.current", "memory.peak") if V2 else \
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes")


def read(name):
    with open(os.path.join(GROUP, name)) as file:
        return file.read()


def megabytes(name):
    return f"{int(read(name)) / 1e6:.1f} MB"


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(binary):
    script = f'echo $$ >{GROUP}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", script, "sh", binary, "--listen", "127.0.0.1:0", "--posts-per-minute", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(figures.LISTENING):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, line[len(figures.LISTENING):].strip()
    sys.exit("the server did not start; does KUBECONFIG name a cluster?")


def measure(binary, posts):
    process, address = start(binary)
    try:
        figures.request(address, "GET", "/config")
        print(f"at rest, after a first request: {megabytes(FILES[1])} in the group, "
              f"{figures.memory(process, 'VmRSS') / 1000:.1f} MB resident")
        for count, request in (
            (2048, ("GET", "/healthz")),
            (2048, ("GET", "/config")),
            (posts, ("POST", "/img-classification/premium", '{"dataset":"mnist"}')),
        ):
            before = cpu_seconds(process.pid)
            result = figures.many(address, count, *request)
            spent = (cpu_seconds(process.pid) - before) / count * 1000
            print(f"{request[0]} {request[1]}, {figures.PARALLEL} at a time: {result}, {spent:.2f} ms of CPU each")
        print(f"peak: {megabytes(FILES[2])} in the group, {figures.memory(process, 'VmHWM') / 1000:.1f} MB resident")
        events = read("memory.events" if V2 else "memory.oom_control")
        print("killed, out of memory:", dict(line.split() for line in events.splitlines())["oom_kill"])
    finally:
        process.terminate()
        process.wait()


def main():
    os.mkdir(GROUP)
    try:
        with open(os.path.join(GROUP, FILES[0]), "w") as file:
            file.write(str(LIMIT))
        measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 256)
    finally:
        os.rmdir(GROUP)


if __name__ == "__main__":
    main()
