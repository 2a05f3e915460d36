#!/usr/bin/env python3
"""Measures the time from a change of a pod to the GET /config that shows it, and the CPU time of the watch without requests.

usage: bench/freshness.py [CHANGES [BINARY]]

It creates and deletes pods for a scheduler that does not exist, in the namespace default of the cluster of KUBECONFIG, which must name a client
certificate. The server runs on this machine. Needs kubectl and Python's standard library.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time

BINARY = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "target", "release", "img-classification")
PODS = "/api/v1/namespaces/default/pods"
LIVE = "GET /config is answered from the watched pods"
# The load of the second part: changes a second, and its duration in seconds.
RATE, DURATION = 10, 60


class Cluster:
    """A client of the API server with a client certificate."""

    def __init__(self):
        view = subprocess.run(["kubectl", "config", "view", "--raw", "--minify", "--flatten", "-o", "json"],
                              check=True, stdout=subprocess.PIPE, text=True).stdout
        config = json.loads(view)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        with tempfile.TemporaryDirectory() as folder:
            def file(name, data):
                path = os.path.join(folder, name)
                with open(path, "wb") as file:
                    file.write(base64.b64decode(data))
                return path
            context = ssl.create_default_context(cafile=file("ca", cluster["certificate-authority-data"]))
            context.load_cert_chain(file("certificate", user["client-certificate-data"]), file("key", user["client-key-data"]))
        self.connection = http.client.HTTPSConnection(cluster["server"].removeprefix("https://"), context=context)

    def change(self, method, path, body):
        """Sends a change; returns the time of the response."""
        self.connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status not in (200, 201):
            sys.exit(f"freshness: {method} {path}: {response.status} {text.decode()}")
        return time.perf_counter()

    def create(self, name):
        spec = {"schedulerName": "none", "containers": [{"name": "c", "image": "none:1.0"}]}
        return self.change("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def delete(self, name):
        return self.change("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})


class Server:
    """A server whose watch of the pods is live."""

    def __init__(self, binary):
        # The bench sends more requests than one address may.
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--posts-per-minute", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        port = next(line for line in self.process.stderr if line.startswith("listening on")).rpartition(":")[2]
        self.connection = http.client.HTTPConnection("127.0.0.1", int(port))
        self.config()
        next(line for line in self.process.stderr if line.strip() == LIVE)
        # A full pipe would block the server's log.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def config(self):
        self.connection.request("GET", "/config")
        return self.connection.getresponse().read()

    def cpu(self):
        """CPU time of the process in seconds, see clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.process.pid << 3 | 2)


def delays(cluster, server, changes):
    """Returns the times in ms from the response to a change to the first GET /config that shows it."""
    created, deleted = [], []
    for number in range(changes):
        name = f"freshness-{number}"
        for change, times, is_shown in ((cluster.create, created, True), (cluster.delete, deleted, False)):
            began = change(name)
            while (f'"{name}"'.encode() in server.config()) != is_shown:
                pass
            times.append((time.perf_counter() - began) * 1000)
    return {"created": sorted(created), "deleted": sorted(deleted)}


def load(cluster, server):
    """Returns the share of a core that the server takes while pods change and no request arrives."""
    began, before = time.monotonic(), server.cpu()
    for number in range(RATE * DURATION):
        name = f"freshness-{number // 2}"
        cluster.create(name) if number % 2 == 0 else cluster.delete(name)
        time.sleep(max(0, began + (number + 1) / RATE - time.monotonic()))
    return (server.cpu() - before) / (time.monotonic() - began)


def main():
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    cluster, server = Cluster(), Server(sys.argv[2] if len(sys.argv) > 2 else BINARY)
    try:
        for what, times in delays(cluster, server, changes).items():
            p99 = times[int(len(times) * 0.99)]
            print(f"pod {what}, until GET /config shows it: p50 {times[len(times) // 2]:.1f} ms, p99 {p99:.1f} ms, "
                  f"maximum {times[-1]:.1f} ms ({len(times)} changes)")
        print(f"{RATE} changes a second, no requests: {load(cluster, server):.2%} of a core")
    finally:
        server.process.terminate()
        server.process.wait()


if __name__ == "__main__":
    main()
