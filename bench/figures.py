#!/usr/bin/env python3
"""Prints the figures of README: size, time to start, memory at rest and under 64 parallel requests.

usage: bench/figures.py [POSTS]     (KUBECONFIG names the cluster; POSTS premium Jobs are created there, 256 by default)

Needs python3 alone and a release build. Every request has a connection of its own, as the clients of a course have.
"""

import concurrent.futures
import http.client
import os
import subprocess
import sys
import threading
import time

BINARY = os.path.join(os.path.dirname(__file__), "..", "target", "release", "img-classification")
PARALLEL = 64
STARTS = 21
LISTENING = "listening on http://"


def start():
    """A running server: the process, its address, and the milliseconds from start to the line that it listens."""
    began = time.perf_counter()
    process = subprocess.Popen([BINARY, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(LISTENING):
            took = (time.perf_counter() - began) * 1000
            # The access log has to go somewhere: a full pipe would stop the server.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, line[len(LISTENING):].strip(), took
    sys.exit("the server did not start; does KUBECONFIG name a cluster?")


def memory(process, field):
    """Kilobytes; VmRSS is now, VmHWM the most so far."""
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def request(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    began = time.perf_counter()
    connection.request(method, path, body, {"Connection": "close"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, (time.perf_counter() - began) * 1000


def many(address, count, *args):
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(lambda _: request(address, *args), range(count)))
    took = time.perf_counter() - began
    good = sum(status == 200 for status, _ in answers)
    times = sorted(ms for _, ms in answers)
    return f"{good} of {count} answered 200, {count / took:.0f}/s, p50 {times[count // 2]:.0f} ms, p99 {times[count * 99 // 100]:.0f} ms"


def main():
    posts = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    print(f"binary: {os.path.getsize(BINARY) / 1e6:.2f} MB")
    times = []
    for _ in range(STARTS):
        process, _, took = start()
        times.append(took)
        process.terminate()
        process.wait()
    times.sort()
    print(f"start to listening: median {times[STARTS // 2]:.1f} ms, most {times[-1]:.1f} ms ({STARTS} starts)")

    process, address, _ = start()
    try:
        request(address, "GET", "/config")
        print(f"memory at rest, after a first request: {memory(process, 'VmRSS') / 1000:.1f} MB")
        print(f"GET /config, {PARALLEL} at a time: {many(address, 2048, 'GET', '/config')}")
        body = '{"dataset":"mnist"}'
        print(f"POST premium, {PARALLEL} at a time: {many(address, posts, 'POST', '/img-classification/premium', body)}")
        print(f"most memory so far: {memory(process, 'VmHWM') / 1000:.1f} MB")
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
