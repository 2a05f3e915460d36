#!/usr/bin/env python3
"""Compares the cost of the program with the recorded one: instructions of a POST and of a GET /config, and peak memory.

usage: bench/guard.py BINARY [--record]     (BINARY is a release's; --record writes bench/guard.json instead of comparing)

callgrind (Debian's valgrind) counts the instructions of a run with many requests and of one with few. The difference leaves out
start and stop. The counts depend on the compiler and not on the machine's speed. If another Rust recorded them, the script only
prints them. The cluster is a server in this script, without TLS, which is not the program's code.
"""

import gzip
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

import figures

RECORD = os.path.join(os.path.dirname(__file__), "guard.json")
# Largest relative difference of a count from the recorded one.
TOLERANCE = 0.05
# Largest peak memory of a process with 10,000 pods, in kilobytes.
MEMORY_LIMIT = 20_000
FEW, MANY = 5, 55
FEW_LISTS, MANY_LISTS = 2, 12
POST = ("POST", "/img-classification/premium", '{"dataset":"mnist"}')
LIST = ("GET", "/config", None)


def field(number, content):
    """A length-delimited field in protocol buffers."""
    length, size = len(content), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def in_protobuf(pods):
    """The same pods in protocol buffers as Kubernetes encodes them; fillers stand for the fields that the program skips."""
    items = field(1, b"")
    for pod in pods:
        metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
        items += field(2, b"".join((
            field(1, field(1, metadata["name"].encode()) + field(3, b"default") + field(12, b"x" * 3600)),
            field(2, field(2, b"c" * 80) + field(10, spec["nodeName"].encode())),
            field(3, field(1, status["phase"].encode()) + field(2, b"t" * 60) * 4 + field(6, status["podIP"].encode())),
        )))
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, b"PodList")) + field(2, items) + field(3, b"") + field(4, b"")


class Cluster(http.server.BaseHTTPRequestHandler):
    """An API server that accepts every Job, stores none, and lists `pods`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    pods = (b"", "")

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.respond(201, json.dumps(job).encode(), "application/json")

    def do_GET(self):
        self.respond(200, *self.pods, ("Content-Encoding", "gzip"))

    def respond(self, status, body, kind, *more):
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve_pods(count, protobuf):
    figures.PODS = count
    plain = figures.pod_list()
    if protobuf:
        Cluster.pods = (gzip.compress(in_protobuf(json.loads(plain)["items"]), 1), "application/vnd.kubernetes.protobuf")
    else:
        Cluster.pods = (gzip.compress(plain.encode(), 1), "application/json")


def run(command, kubeconfig, requests, pods):
    """Starts the server with this command, sends the requests over one connection and stops it; its peak memory in kilobytes."""
    arguments = ["serve", "--listen", "127.0.0.1:0", "--kubeconfig", kubeconfig, "--posts-per-minute", "0"]
    # glibc selects code by processor, which would change the counts.
    env = {"PATH": os.environ["PATH"], "NO_WATCH": "1", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-ERMS"}
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=env)
    lines = iter(process.stderr.readline, "")
    address = next((line[len(figures.LISTENING):].strip() for line in lines if line.startswith(figures.LISTENING)), None)
    if address is None:
        sys.exit("the server did not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    connection = http.client.HTTPConnection(address, timeout=60)
    for method, path, body in requests:
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read()
        if response.status != 200 or (path == LIST[1] and len(json.loads(text)["pods"]) != pods):
            sys.exit(f"{method} {path}: {response.status} {text[:200]}")
    connection.close()
    peak = figures.memory(process, "VmHWM")
    process.terminate()
    process.wait()
    return peak


def instructions(binary, kubeconfig, request, pods):
    """Instructions of one such request."""
    counts = []
    few, many = (FEW, MANY) if request == POST else (FEW_LISTS, MANY_LISTS)
    for number in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out")
            run(["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", binary], kubeconfig, [request] * number, pods)
            with open(out) as file:
                counts.append(int(re.search(r"^(?:totals|summary): (\d+)", file.read(), re.M)[1]))
    return (counts[1] - counts[0]) // (many - few)


def measure(binary, kubeconfig):
    counts = {"POST": instructions(binary, kubeconfig, POST, 0)}
    for protobuf in (True, False):
        kind = "protobuf" if protobuf else "JSON"
        serve_pods(1000, protobuf)
        counts[f"/config, 1000 pods in {kind}"] = instructions(binary, kubeconfig, LIST, 1000)
        serve_pods(10_000, protobuf)
        peak = run([binary], kubeconfig, [LIST] * 3, 10_000)
        print(f"/config, 10000 pods in {kind}: peak {peak} kB, limit {MEMORY_LIMIT} kB")
        if peak > MEMORY_LIMIT:
            sys.exit(f"peak memory {peak} kB exceeds {MEMORY_LIMIT} kB")
    return counts


def compare(counts, rust):
    with open(RECORD) as file:
        record = json.load(file)
    failed = False
    for name, count in counts.items():
        recorded = record["instructions"][name]
        share = count / recorded
        print(f"{name}: {count} instructions, {share:.3f} of the recorded {recorded}")
        failed |= abs(share - 1) > TOLERANCE
    if rust != record["rust"]:
        print(f"not compared: recorded with {record['rust']}, this is {rust}")
    elif failed:
        sys.exit(f"a count is more than {TOLERANCE:.0%} off; fix: find the cause, or accept it with bench/guard.py BINARY --record")


def main():
    binary = os.path.abspath(sys.argv[1])
    api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    rust = subprocess.check_output(["rustc", "--version"], text=True).strip()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
        json.dump(figures.kubeconfig(api.server_port), config)
        config.flush()
        counts = measure(binary, config.name)
    if "--record" in sys.argv[2:]:
        with open(RECORD, "w") as file:
            json.dump({"rust": rust, "instructions": counts}, file, indent=2)
            file.write("\n")
    else:
        compare(counts, rust)


if __name__ == "__main__":
    main()
