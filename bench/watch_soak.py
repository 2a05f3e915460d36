#!/usr/bin/env python3
"""Tests for ten minutes that GET /config, answered from watched pods, is what a list of Kubernetes would be.

usage: sudo bench/watch_soak.py [--binary PATH] [--seconds N] [--rate N] [--steps NAME...]

It starts bench/control-plane and changes pods in four namespaces, while the API server is killed, hangs, loses old versions, or
cannot be reached. Every body of GET /config is checked: valid JSON in the order of a list, and each row is a state of its pod of
the last 25 s. After each fault the changes pause, until the watch is live again and its body is the one of a list. The last line
is JSON, and the exit code 1 if anything failed. Needs root, and what tests/cluster needs; Python's standard library is enough.
"""

import argparse
import collections
import contextlib
import difflib
import functools
import http.client
import itertools
import json
import os
import sys
import threading
import time

import figures
from harness import Program
from soak_changes import Changes
from soak_cluster import FIELDS, Cluster, Link, wait_for

# The step without a fault.
QUIET = "quiet"
STEPS = [QUIET, "restart", "short-hang", "compaction", "silence", "long-hang"]
LIVE = "GET /config is answered from the watched pods"
# Maximum age of the watched pods, in seconds; docs/api.md promises it.
MAX_AGE = 25
# Time limit of an agreement after the last change, in seconds.
AGREEMENT = 60
# Requests that must be answered without a list of Kubernetes.
LIVE_REQUESTS = 20
# Requests of each of the two readers in a second, and of the main thread after a fault.
READ_RATE, RATE_AFTER_FAULT = 2, 50
# Every so many requests of the main thread ask Kubernetes.
NO_CACHE_EVERY = 20
# Changes after a fault, before the pause.
CHANGES = 250
# Time limit of a response, in seconds: three times --kube-timeout.
TIMEOUT = 30
# Durations of the faults in seconds: within and beyond what a watch tolerates.
SHORT_HANG, LONG_HANG, SILENCE = 8, 40, 40
# Changes of the step without a fault: the server ends a watch every 20 s.
QUIET_CHANGES = 1500
# Lines of a difference, and of the server's log, in a failure.
SHOWN = 40


class Server(Program):
    """The measured program. Its log without the requests is kept, with the times of the lines since the start."""

    def __init__(self, *args):
        self.lines, self.live, self.panics = collections.deque(maxlen=SHOWN), 0, 0
        super().__init__(*args)

    def drain(self):
        for line in self.process.stderr:
            self.live += line.strip() == LIVE
            self.panics += "panicked" in line or line.startswith("error: bug")
            if not line.startswith("GET "):
                self.lines.append(f"{time.monotonic() - self.began:.1f} s: {line}")

    def costs(self):
        # The CPU time of another process, see clock_getcpuclockid(3).
        seconds = time.clock_gettime(~self.process.pid << 3 | 2)
        return {"peak_rss_mb": round(figures.memory(self.process, "VmHWM") / 1000, 1), "cpu_s": round(seconds, 2)}


class Reader:
    """A client with a kept-alive connection, which checks every response."""

    def __init__(self, soak):
        self.soak, self.etag, self.rows = soak, None, None
        self.connection = http.client.HTTPConnection("127.0.0.1", soak.server.port, timeout=TIMEOUT)

    def ask(self, **headers):
        """Returns the status, the entity tag and the body."""
        soak, asked, step = self.soak, time.monotonic(), self.soak.step
        try:
            self.connection.request("GET", "/config", headers=headers)
            response = self.connection.getresponse()
            status, etag, body = response.status, response.headers["ETag"], response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            status, etag, body = type(error).__name__, None, b""
        times = (asked, time.monotonic())
        try:
            if status == 200:
                self.keep(etag, parse(body))
            if status in (200, 304):
                soak.record(step, soak.changes.history.age(self.rows, *times))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            soak.fail(f"{step}: a wrong body: {error!r}")
        soak.count(step, status, body)
        return status, etag, body

    def keep(self, etag, rows):
        if (etag == self.etag) != (rows == self.rows):
            raise ValueError(f"{etag} follows {self.etag}, although the pods are {'equal' if rows == self.rows else 'others'}")
        self.etag, self.rows = etag, rows

    def run(self, is_conditional):
        while not self.soak.is_over.wait(1 / READ_RATE):
            self.ask(**({"If-None-Match": self.etag} if is_conditional and self.etag else {}))


def parse(body):
    """Returns the rows by their keys in etcd."""
    pods = json.loads(body)["pods"]
    keys = [f"{pod['namespace']}/{pod['name']}" for pod in pods]
    if keys != sorted(set(keys)):
        raise ValueError(f"not in the order of a list, or with duplicates: {keys}")
    if any(tuple(pod) != FIELDS for pod in pods):
        raise ValueError("other fields, or in another order")
    return dict(zip(keys, pods))


def to_body(rows):
    return json.dumps({"pods": rows}, separators=(",", ":"), ensure_ascii=False).encode()


def difference(one, other):
    lines = [body.decode().replace("},", "},\n").splitlines() for body in (one, other)]
    return "\n".join(list(difflib.unified_diff(*lines, n=0, lineterm=""))[:SHOWN])


class Soak:
    """A run: its figures and its steps."""

    def __init__(self, cluster, link, server, rate):
        self.cluster, self.link, self.server = cluster, link, server
        self.changes = Changes(cluster, rate)
        self.step, self.is_over, self.lock = "start", threading.Event(), threading.Lock()
        self.statuses, self.steps, self.failures = collections.Counter(), collections.Counter(), []
        self.gaps, self.outages, self.ages, self.agreements, self.agreed = {}, {}, {}, {}, 0
        self.last_200 = time.monotonic()
        self.reader = Reader(self)
        self.readers = [threading.Thread(target=Reader(self).run, args=(flag,)) for flag in (False, True)]

    def fail(self, text):
        with self.lock:
            self.failures.append(text)
            print(f"watch_soak: {text}", file=sys.stderr, flush=True)

    def record(self, step, age):
        with self.lock:
            self.ages[step] = max(self.ages.get(step, 0), age)
        if age > MAX_AGE:
            raise ValueError(f"a row had been out of date for {age:.1f} s")

    def count(self, step, status, body):
        """Counts a response. Without a fault, each must succeed."""
        with self.lock:
            self.statuses[status] += 1
            if status not in (200, 304) and self.statuses[status] == 1:
                print(f"watch_soak: {step}: the first {status}: {body.decode()}", file=sys.stderr, flush=True)
            now = time.monotonic()
            if status in (200, 304):
                self.gaps[step] = max(self.gaps.get(step, 0), now - self.last_200)
                self.last_200 = now
        if status not in (200, 304) and step == self.step == QUIET:
            self.fail(f"{status} without a fault: {body.decode()}")

    def run(self, seconds, steps):
        """Repeats these steps, and ends after one."""
        began = time.monotonic()
        self.changes.is_running.set()
        for reader in self.readers:
            reader.start()
        try:
            # A fault before the watch is live would test only lists.
            self.settle(CHANGES)
            for name, fault, changes in itertools.cycle(step for step in self.plan() if step[0] in steps):
                self.step = name
                fault()
                self.settle(changes)
                self.steps[name] += 1
                if time.monotonic() - began >= seconds or self.failures or self.changes.failures:
                    return
        finally:
            self.is_over.set()
            for reader in self.readers:
                reader.join()

    def plan(self):
        """The steps: a fault, and the number of changes after it."""
        faults = [
            lambda: None,
            self.restart,
            lambda: self.lasting(self.cluster.hung, SHORT_HANG),
            self.compaction,
            lambda: self.lasting(self.link.silent, SILENCE),
            lambda: self.lasting(self.cluster.hung, LONG_HANG),
        ]
        return [(name, fault, QUIET_CHANGES if name == QUIET else CHANGES) for name, fault in zip(STEPS, faults)]

    def restart(self, while_down=lambda: None):
        began = time.monotonic()
        self.cluster.kill()
        with self.link.refused():
            while_down()
            self.cluster.start()
        # The server's requests meet an API server that is not ready.
        self.cluster.wait_until_ready()
        self.outages[self.step] = max(self.outages.get(self.step, 0), time.monotonic() - began)

    def compaction(self):
        version = self.cluster.version()
        self.restart(self.cluster.compact)
        if not self.cluster.has_expired(version):
            self.fail(f"the version {version} has not expired")

    @staticmethod
    def lasting(fault, seconds):
        with fault():
            time.sleep(seconds)

    def settle(self, changes):
        """Lets so many changes happen, then waits for the agreement of the watch, a list and Kubernetes."""
        wanted = self.changes.operations + changes
        for number in itertools.count():
            if self.changes.operations >= wanted or self.changes.failures:
                break
            self.reader.ask(**({"Cache-Control": "no-cache"} if number % NO_CACHE_EVERY == 0 else {}))
            time.sleep(1 / RATE_AFTER_FAULT)
        with self.changes.paused():
            began, seen = time.monotonic(), []
            try:
                wait_for("agreement", functools.partial(self.agree, seen), AGREEMENT)
            except TimeoutError as error:
                return self.fail(f"{self.step}: {error}: {seen[-1]}")
            with self.lock:
                self.agreed += 1
                self.agreements[self.step] = max(self.agreements.get(self.step, 0), time.monotonic() - began)
        print(f"watch_soak: {self.step}: agreed after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)

    def agree(self, seen):
        """Tests for the agreement; adds the reason against it to `seen`."""
        try:
            expected = to_body(self.cluster.admin.rows())
        except (OSError, http.client.HTTPException) as error:
            seen.append(f"no list of Kubernetes: {error}")
            return False
        watched, listed = self.reader.ask(), self.reader.ask(**{"Cache-Control": "no-cache"})
        if (watched[0], listed[0]) != (200, 200):
            seen.append(f"statuses {watched[0]} and {listed[0]}, no-cache")
        elif watched[2] != expected:
            seen.append("the watched body differs from Kubernetes:\n" + difference(watched[2], expected))
        elif listed != watched:
            seen.append(f"the list of the server, {listed[1]}, differs from its watch, {watched[1]}:\n"
                        + difference(listed[2], watched[2]))
        elif not self.is_live():
            seen.append("GET /config lists the pods: the watch is not live")
        else:
            return True
        return False

    def is_live(self):
        """Tests if GET /config is answered without a list."""
        before = self.cluster.lists()
        for _ in range(LIVE_REQUESTS):
            self.reader.ask()
        return self.cluster.lists() == before

    def report(self):
        for failure in self.changes.failures:
            self.fail(failure)
        if self.server.panics or self.server.process.poll() is not None:
            self.fail(f"{self.server.panics} panics; exit code {self.server.process.poll()}")

        def rounded(times):
            return {step: round(seconds, 2) for step, seconds in times.items()}

        return {
            "operations": self.changes.operations, "lost_responses": self.changes.lost, "agreements": self.agreed,
            "steps": self.steps, "statuses": self.statuses, "longest_outage_s": rounded(self.outages),
            "longest_without_200_s": rounded(self.gaps), "oldest_row_s": rounded(self.ages),
            "slowest_agreement_s": rounded(self.agreements), "live_again": self.server.live, **self.server.costs(),
            "failures": len(self.failures),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=figures.BINARY)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--rate", type=int, default=50, help="changes a second")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="repeat only these")
    options = parser.parse_args()
    binary = os.path.realpath(options.binary)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        cluster.set_up(binary)
        link = Link(cluster.port)
        server = stack.enter_context(Server(binary, cluster.config(link.port), "--posts-per-minute", "0"))
        soak = Soak(cluster, link, server, options.rate)
        soak.run(options.seconds, options.steps)
        report = soak.report()
        if soak.failures:
            sys.stderr.writelines(server.lines)
    print(json.dumps(report))
    sys.exit(report["failures"] > 0)


if __name__ == "__main__":
    main()
