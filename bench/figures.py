#!/usr/bin/env python3
"""Prints the figures of bench/FIGURES.md: size, start time, memory at rest, under 64 parallel requests, and with 10,000 pods.

usage: bench/figures.py [POSTS]     (KUBECONFIG names the cluster; POSTS premium Jobs are created there, 256 by default)

Needs only python3 and a release build. Every request has a connection of its own, as the clients of a course have. The
10,000 pods come from a server in this script, so that no cluster has to hold them.
"""

import concurrent.futures
import gzip
import http.client
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

BINARY = os.path.join(os.path.dirname(__file__), "..", "target", "release", "img-classification")
PARALLEL = 64
STARTS = 21
PODS = 10_000
LISTENING = "listening on http://"


def start(*args):
    """Starts a server: its process, its address, and the milliseconds from start to the line "listening on"."""
    began = time.perf_counter()
    # The clients share an address, so no limit of one client network may apply.
    command = [BINARY, "--listen", "127.0.0.1:0", "--posts-per-minute", "0", *args]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(LISTENING):
            took = (time.perf_counter() - began) * 1000
            # A full pipe would block the server's access log, so read it.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, line[len(LISTENING):].strip(), took
    sys.exit("the server did not start; does KUBECONFIG name a cluster?")


def memory(process, field):
    """Memory in kilobytes; VmRSS is the current size, VmHWM the peak."""
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def request(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    began = time.perf_counter()
    connection.request(method, path, body, {"Connection": "close"})
    response = connection.getresponse()
    response.read()
    return response.status, (time.perf_counter() - began) * 1000


def many(address, count, *args, workers=PARALLEL):
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        responses = list(pool.map(lambda _: request(address, *args), range(count)))
    took = time.perf_counter() - began
    good = sum(status == 200 for status, _ in responses)
    times = sorted(ms for _, ms in responses)
    return f"{good} of {count} answered 200, {count / took:.0f}/s, p50 {times[count // 2]:.0f} ms, p99 {times[count * 99 // 100]:.0f} ms"


def pod_list():
    """A PodList of PODS pods of the usual 4 to 5 KB each."""
    def pod(i):
        return {
            "metadata": {
                "name": f"premium-mnist-bcdfghjklm-{i:05}",
                "namespace": "default",
                "uid": f"8a8d8e5f-0000-4000-8000-{i:012}",
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": "x" * 3600}}],
            },
            "spec": {
                "nodeName": f"ip-192-168-11-{i % 250}.ec2.internal",
                "containers": [{"name": "classifier", "image": "registry.example/mp12-classifier:1.0"}],
            },
            "status": {
                "phase": "Running",
                "podIP": f"192.168.{i // 250 % 250}.{i % 250}",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}] * 4,
            },
        }
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod(i) for i in range(PODS)]})


class PodServer(http.server.BaseHTTPRequestHandler):
    """Responds to every GET with the same list, in gzip as Kubernetes does."""

    protocol_version = "HTTP/1.1"
    body = b""

    def do_GET(self):
        self.send_response(200)
        for name, value in (("Content-Type", "application/json"), ("Content-Encoding", "gzip")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args):
        pass


def kubeconfig(port, host="127.0.0.1"):
    """A kubeconfig without credentials for a server of these scripts."""
    return {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
    }


def many_pods():
    plain = pod_list().encode()
    PodServer.body = gzip.compress(plain, 1)
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), PodServer)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        json.dump(kubeconfig(api.server_port), config)
        config.flush()
        # The pod server has nothing to watch: each request is a list.
        process, address, _ = start("--kubeconfig", config.name, "--no-watch")
    try:
        request(address, "GET", "/healthz")
        before = memory(process, "VmHWM")
        times = sorted(request(address, "GET", "/config")[1] for _ in range(5))
        after = memory(process, "VmHWM")
        print(
            f"GET /config, {PODS} pods ({len(plain) / 1e6:.0f} MB of JSON): p50 {times[2]:.0f} ms, "
            f"peak memory {after / 1000:.1f} MB, {(after - before) / 1000:.1f} more than before"
        )
        print(f"the same, 8 at a time: {many(address, 64, 'GET', '/config', workers=8)}, "
              f"peak memory {memory(process, 'VmHWM') / 1000:.1f} MB")
    finally:
        process.terminate()
        process.wait()
        api.shutdown()


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
    print(f"start to listening: median {times[STARTS // 2]:.1f} ms, maximum {times[-1]:.1f} ms ({STARTS} starts)")

    process, address, _ = start()
    try:
        request(address, "GET", "/config")
        print(f"memory at rest, after a first request: {memory(process, 'VmRSS') / 1000:.1f} MB")
        print(f"GET /config, {PARALLEL} at a time: {many(address, 2048, 'GET', '/config')}")
        body = '{"dataset":"mnist"}'
        print(f"POST premium, {PARALLEL} at a time: {many(address, posts, 'POST', '/img-classification/premium', body)}")
        print(f"peak memory so far: {memory(process, 'VmHWM') / 1000:.1f} MB")
    finally:
        process.terminate()
        process.wait()
    many_pods()


if __name__ == "__main__":
    main()
