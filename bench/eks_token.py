#!/usr/bin/env python3
"""Time, CPU and memory until the first Job on EKS, with the aws program and without it, interleaved.

usage: bench/eks_token.py BINARY [ROUNDS]          (10 rounds by default)

A fake Kubernetes API on loopback accepts each token and each Job; the credential is an access key, so that no other service is
involved. The start of a round is that of the server, which a POST follows as soon as it listens. CPU is that of the server
and the program; memory is the largest sum of both, read every 5 ms. The aws program comes from PyPI, as in tests/eks/run.
"""

import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/eks"))
import fakes  # noqa: E402

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "img-classification"
AWSCLI = "1.46.3"
POLL = 0.005
# The server makes the first token on its own as soon as it starts; its requests wait for it this long.
KUBE_TIMEOUT = "60"


def rss(pid):
    """Returns the resident memory of a process and its descendants, in MB."""
    total = 0
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) / 1024
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            total += sum(rss(child) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended
    return total


def run(binary, folder, kubeconfig, api, how):
    """Returns (ms to the first token, ms to the answer of the first POST, ms of CPU, MB at most, MB at rest)."""
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
                   "AWS_SECRET_ACCESS_KEY": "secret", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [binary, "serve", "--listen", "127.0.0.1:0", "--no-watch", "--kubeconfig", kubeconfig, "--native-eks", how,
               "--kube-timeout", KUBE_TIMEOUT]
    while not api.tokens.empty():
        api.tokens.get()
    start = time.monotonic()
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    peak, ending = [0.0], threading.Event()

    def measure():
        while not ending.wait(POLL):
            peak[0] = max(peak[0], rss(server.pid))

    meter = threading.Thread(target=measure)
    meter.start()
    for line in server.stderr:
        if line.startswith("listening on "):
            url = line.split()[-1]
            break
    reader = threading.Thread(target=server.stderr.read)
    reader.start()
    # In one packet: a second one would wait for the acknowledgement of the first.
    body = '{"dataset":"mnist"}'
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        head = f"POST /img-classification/free HTTP/1.1\r\nHost: {url[7:]}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        response = client.recv(4096)
        post = time.monotonic() - start
    assert response.startswith(b"HTTP/1.1 200 "), response
    token = api.first - start
    ending.set()
    meter.join()
    rest = rss(server.pid)
    server.terminate()
    _, status, usage = os.wait4(server.pid, 0)
    server.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    return token * 1000, post * 1000, (usage.ru_utime + usage.ru_stime) * 1000, peak[0], rest


def main(binary, rounds):
    with tempfile.TemporaryDirectory(prefix="img-classification-eks.") as name:
        folder = pathlib.Path(name)
        packages = CACHE / f"awscli-{AWSCLI}"
        assert packages.exists(), "run tests/eks/run first, which installs the aws program"
        (folder / "bin").mkdir()
        program = folder / "bin/aws"
        program.write_text(f"#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} {packages}/bin/aws \"$@\"\n")
        program.chmod(0o755)
        certificate, ca = fakes.certificate(folder)
        api = fakes.Api(certificate)
        api.first = 0
        put = api.tokens.put

        def keep_time(token):
            api.first = time.monotonic()
            put(token)

        api.tokens.put = keep_time
        args = ["--region", "us-east-1", "eks", "get-token", "--cluster-name", "mp12-cluster", "--output", "json"]
        user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "aws", "args": args}}
        config = {"current-context": "eks", "clusters": [{"name": "eks", "cluster": {"server": api.url, "certificate-authority": str(ca)}}],
                  "users": [{"name": "eks", "user": user}], "contexts": [{"name": "eks", "context": {"cluster": "eks", "user": "eks"}}]}
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(config))
        results = {"off": [], "auto": []}
        run(binary, folder, kubeconfig, api, "off")  # fills the page cache
        for _ in range(rounds):
            for how, values in results.items():
                values.append(run(binary, folder, kubeconfig, api, how))
    medians = {how: [statistics.median(column) for column in zip(*values)] for how, values in results.items()}
    print(f"{'':34}{'with aws':>12}{'without':>12}{'ratio':>9}")
    names = ["ms to the first token in use", "ms to the answer of the first POST", "ms of CPU until then", "MB at most", "MB after it"]
    for title, with_aws, without in zip(names, medians["off"], medians["auto"]):
        print(f"{title:34}{with_aws:12.1f}{without:12.1f}{with_aws / without:9.1f}")


if __name__ == "__main__":
    assert shutil.which("openssl")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10)
