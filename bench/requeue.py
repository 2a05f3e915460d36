#!/usr/bin/env python3
"""Measures how long a queue of free Jobs takes with and without requeue: total time, idle share of the slots, order of starts.

usage: bench/requeue.py [JOBS [IMAGE]]

KUBECONFIG names the cluster, whose Jobs of this program are deleted. The defaults are 20 Jobs and the image
registry.local/classifier:short, which ends after 5 s.

Needs only python3 and a build; BINARY is target/release/img-classification by default. ONLY=with or ONLY=without makes one of the
two runs. The script reads the slots in use from GET /config ten times a second: a pod has a slot from its first appearance
to its end.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time

BINARY = os.environ.get("BINARY") or os.path.join(os.path.dirname(__file__), "..", "target", "release", "img-classification")
LISTENING = "listening on http://"
SLOTS = 2
POLL_INTERVAL = 0.1


def start(*args):
    process = subprocess.Popen([BINARY, "--listen", "127.0.0.1:0", *args], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(LISTENING):
            # A full pipe would block the server's access log.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, line[len(LISTENING):].strip()
    sys.exit("the server did not start; fix: set KUBECONFIG to the kubeconfig of a cluster")


def request(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, {"Connection": "close"})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        sys.exit(f"{method} {path}: {response.status} {text.decode()}")
    return json.loads(text)


def pods(address, jobs):
    """Yields the Job's place in the queue and the pod's phase for each pod of these Jobs."""
    for pod in request(address, "GET", "/config")["pods"]:
        job = pod["name"].rpartition("-")[0]
        if job in jobs:
            yield jobs[job], pod["status"]


def run(count, image, *args):
    subprocess.run([BINARY, "clean"], check=True, stdout=subprocess.DEVNULL)
    process, address = start("--image", image, *args)
    try:
        jobs = {}
        for place in range(1, count + 1):
            jobs[request(address, "POST", "/img-classification/free", '{"dataset":"mnist"}')["job"]] = place
        began = last = time.monotonic()
        # Slot seconds while a Job waited: in total, and without a pod.
        total_slots = idle = 0.0
        # Times at which slots became free, and times from then to the next start.
        freed, gaps, starts, ended = [], [], [], 0
        used = 0
        while ended < count:
            time.sleep(POLL_INTERVAL)
            seen = dict(pods(address, jobs))
            now = time.monotonic()
            if len(starts) < count:
                total_slots += SLOTS * (now - last)
                idle += (SLOTS - min(used, SLOTS)) * (now - last)
            last = now
            finished = sum(phase in ("Succeeded", "Failed") for phase in seen.values())
            freed += [now] * (finished - ended)
            new = sorted(seen.keys() - set(starts))
            if starts:
                gaps += [now - freed.pop(0) for _ in new if freed]
            starts += new
            ended = finished
            used = sum(phase in ("Pending", "Running") for phase in seen.values())
        total = time.monotonic() - began
    finally:
        process.terminate()
        process.wait()
    gaps.sort()
    print(f"{count} Jobs in {total:.1f} s; idle share of the {SLOTS} slots while a Job waited: {100 * idle / total_slots:.1f} %")
    if gaps:
        print(f"a freed slot was taken again after: median {gaps[len(gaps) // 2]:.1f} s, most {gaps[-1]:.1f} s")
    print(f"order of starts: {' '.join(map(str, starts))}", flush=True)


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    image = sys.argv[2] if len(sys.argv) > 2 else "registry.local/classifier:short"
    subprocess.run([BINARY, "setup"], check=True, stdout=subprocess.DEVNULL)
    for name, args in (("with", []), ("without", ["--no-requeue"])):
        if os.environ.get("ONLY", name) == name:
            print(f"{name} requeue:", flush=True)
            run(count, image, *args)


if __name__ == "__main__":
    main()
