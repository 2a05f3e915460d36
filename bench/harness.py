"""The servers, clients and tables that bench/overload and bench/deadlines share. This module measures nothing."""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

import figures

HERE = os.path.dirname(os.path.realpath(__file__))
HOST = "192.0.2.1"
GOOD = "192.0.2.100"
BAD = ["192.0.2.11", "192.0.2.12", "192.0.2.13"]
# The unit's limits: systemd/img-classification.service.
DESCRIPTORS = 776
WATCHDOG_SECONDS = 30
# Time limit of every request of the measured client, in seconds.
TIMEOUT = 60
# Requests of the measured client in a second.
GET_RATE = 20
# Requests of the measured client that may wait for their response at a time.
MAX_WAITING = 300
MNIST = '{"dataset":"mnist"}'
FREE = "/img-classification/free"
NAMESPACE_FLAG = "BENCH_NAMESPACE"


class Program:
    """A running server, supervised as systemd does: it has the unit's descriptors, and its notifications are read.

    `config` is its kubeconfig."""

    def __init__(self, binary, config, *options, through=()):
        self.folder = tempfile.TemporaryDirectory(prefix="img-classification-bench.")
        path = os.path.join(self.folder.name, "kubeconfig")
        with open(path, "w") as file:
            json.dump(config, file)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.folder.name, "notify"))
        self.pings, self.stopping = [], threading.Event()
        threading.Thread(target=self.read_notifications, daemon=True).start()
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder.name, "NOTIFY_SOCKET": self.notify.getsockname(),
                       "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000)}
        if "--no-requeue" in options:
            # An earlier build has neither the variable nor a watch of the pods.
            environment["NO_WATCH"] = "1"
        command = [*through, binary, "--listen", "0.0.0.0:0", "--kubeconfig", path, *options]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)))
        for line in self.process.stderr:
            if line.startswith(figures.LISTENING):
                self.port = int(line.rpartition(":")[2])
                # A full pipe would block the server's log.
                threading.Thread(target=self.drain, daemon=True).start()
                return
        sys.exit(f"{binary} did not start")

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def drain(self):
        for _ in self.process.stderr:
            pass

    def read_notifications(self):
        with contextlib.suppress(OSError):
            while True:
                state = self.notify.recv(4096)
                if b"WATCHDOG=1" in state:
                    self.pings.append(time.monotonic())
                if b"STOPPING=1" in state:
                    self.stopping.set()

    def longest_gap(self):
        """The longest time without a ping so far, in seconds."""
        times = [self.began, *self.pings, time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))

    def kernel_memory(self):
        """Bytes of the kernel's buffers of the server's connections, closed ones that still have data included."""
        text = subprocess.run(["ss", "-Htmn", f"sport = :{self.port}"], stdout=subprocess.PIPE, text=True).stdout
        return sum(int(number) for number in re.findall(r"(?<=[(,])[rfw](\d+)", text))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.notify.close()
        self.folder.cleanup()


def request(port, method, path, body=None):
    """A request of the measured client on a connection of its own: the status, or the error's name, and the seconds it took."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT, source_address=(GOOD, 0))
    began = time.monotonic()
    try:
        connection.request(method, path, body, {"Connection": "close"})
        response = connection.getresponse()
        response.read()
        status = response.status
    except (OSError, http.client.HTTPException) as error:
        status = type(error).__name__
    finally:
        connection.close()
    return status, time.monotonic() - began


def at_once(count, *args):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: request(*args), range(count)))


@contextlib.contextmanager
def attack(port, *words, connections, addresses):
    kind = [sys.executable, os.path.join(HERE, "attack.py"), *words, HOST, str(port), str(connections), *addresses]
    process = subprocess.Popen(kind)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def paced(rate, port, *args):
    """Sends `rate` requests a second, whether or not the earlier ones have ended. Gives the list of the answers, which is
    complete at the end."""
    answers, stopped, pool = [], threading.Event(), concurrent.futures.ThreadPoolExecutor(MAX_WAITING)

    def send():
        due = time.monotonic()
        while not stopped.wait(max(0, due - time.monotonic())):
            pool.submit(lambda: answers.append(request(port, *args)))
            due += 1 / rate

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield answers
    finally:
        stopped.set()
        sender.join()
        pool.shutdown()


def tally(answers):
    """The answers by status: "5 x 503"."""
    statuses = [status for status, _ in answers]
    return ", ".join(f"{statuses.count(status)} × {status}" for status in sorted(set(statuses), key=str))


def percentile(answers, percent):
    """A percentile of the answers' times, in milliseconds."""
    times = sorted(took for _, took in answers)
    return times[len(times) * percent // 100] * 1000


def measure(builds, measurements, options):
    """Runs every measurement with each build, one after the other: rows[text][build] = result."""
    rows = {}
    for point, measurement, arguments in measurements:
        if point not in options.points:
            continue
        for build, binary in builds.items():
            for text, result in measurement(binary, options, *arguments):
                rows.setdefault((point, text), {})[build] = result
                print(json.dumps({"point": point, "build": build, "what": text, "result": result}), file=sys.stderr, flush=True)
    return rows


def print_table(title, rows, builds):
    print(f"| point | {title} | " + " | ".join(builds) + " |")
    print("|---" * (2 + len(builds)) + "|")
    for (point, text), results in rows.items():
        print(f"| {point} | {text} | " + " | ".join(results.get(build, "") for build in builds) + " |")


def enter_namespace():
    """Runs this script again in a network namespace with the addresses of all clients."""
    script = f"ip link set lo up && ip address add {HOST}/24 dev lo"
    script += "".join(f" && ip address add {address}/24 dev lo" for address in (GOOD, *BAD))
    os.environ[NAMESPACE_FLAG] = "1"
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", script + ' && exec "$@"', "sh", sys.executable, *sys.argv])


def main(description, title, measurements, seconds):
    """Runs the measurements (point, function, its arguments) and prints the table."""
    points = sorted({point for point, _, _ in measurements})
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=figures.BINARY)
    parser.add_argument("--before", metavar="OLD", help="also measure this program, an earlier build, beside it")
    parser.add_argument("--points", default=points, type=lambda text: [int(point) for point in text.split(",")])
    parser.add_argument("--seconds", default=seconds, type=int, help="time of the measurements that last")
    options = parser.parse_args()
    if NAMESPACE_FLAG not in os.environ:
        enter_namespace()
    builds = {"before": options.before} if options.before else {}
    builds = {name: os.path.realpath(path) for name, path in {**builds, "now": options.binary}.items()}
    print_table(title, measure(builds, measurements, options), builds)
