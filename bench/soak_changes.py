"""The changes of bench/watch_soak.py: pods that are created, changed and deleted, and the history of each. This module measures nothing."""

import contextlib
import http.client
import json
import random
import threading
import time

from soak_cluster import DEADLINE, POLL, Client

# In etcd's order of keys, "a-b/x" precedes "a/x" and "a0/x" follows it.
NAMESPACES = ("a", "a-b", "a0", "b")
# Names of pods in a namespace: with four namespaces and the weights below, a list has two pages of 500.
NAMES = [f"{stem}{number}" for number in range(50) for stem in ("p", "p-", "p.", "p0-")]
PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown", None)
# Weights of the changes of an existing pod.
WEIGHTS = {"set_status": 40, "set_label": 25, "bind": 15, "delete": 20}
# Every so many changes, a writer makes as many as in this time at once, in seconds.
BURST_EVERY, BURST = 200, 2
# Every so many changes, a writer deletes all pods of its namespace at once.
WIPE_EVERY = 800
# Time after which a former state is forgotten, in seconds.
KEPT = 240
MERGE = "application/merge-patch+json"
SPEC = {"schedulerName": "none", "automountServiceAccountToken": False, "containers": [{"name": "c", "image": "none:1.0"}]}


class History:
    """The states of each pod, its row or None, with the times at which the change to it began and was acknowledged."""

    def __init__(self):
        self.lock, self.states = threading.Lock(), {}
        for namespace in NAMESPACES:
            for name in NAMES:
                self.states[f"{namespace}/{name}"] = [[None, 0, 0]]

    def last(self, key):
        return self.states[key][-1][0]

    def begin(self, keys, new):
        """Adds a state that a response may show from now on."""
        with self.lock:
            now = time.monotonic()
            for key in keys:
                states = self.states[key]
                while len(states) > 2 and states[1][2] and states[1][2] < now - KEPT:
                    states.pop(0)
                states.append([new, now, None])

    def end(self, keys):
        """Records that the last change of these pods was acknowledged."""
        with self.lock:
            for key in keys:
                self.states[key][-1][2] = time.monotonic()

    def correct(self, namespace, rows):
        """Corrects changes whose response was lost: `rows` are the pods of the namespace now.

        They stay without an acknowledgement, because the API server deletes a pod in two steps, and a killed one may leave a part."""
        with self.lock:
            for key, states in self.states.items():
                state, actual = states[-1], rows.get(key)
                if key.startswith(f"{namespace}/") and state[2] is None and state[0] != actual:
                    states.append([actual, state[1], None])

    def age(self, rows, asked, answered):
        """Returns for how long the oldest of these rows had been out of date when they were asked for, in seconds.

        Raises ValueError if a row has never been the state of its pod."""
        with self.lock:
            unknown = rows.keys() - self.states.keys()
            if unknown:
                raise ValueError(f"unknown pods: {sorted(unknown)[:5]}")
            return max(age(key, rows.get(key), states, (asked, answered)) for key, states in self.states.items())


def age(key, shown, states, times):
    asked, answered = times
    until = float("inf")
    for state, began, acknowledged in reversed(states):
        if state == shown and began <= answered:
            return max(0, asked - until)
        until = min(until, acknowledged or until)
    raise ValueError(f"{key} has never been {shown}, but {states[-5:]}; asked at {asked}, answered at {answered}")


class Writer(threading.Thread):
    """Changes the pods of one namespace, one after the other."""

    def __init__(self, changes, namespace, rate):
        super().__init__(daemon=True)
        self.changes, self.namespace, self.period = changes, namespace, 1 / rate
        self.path = f"/api/v1/namespaces/{namespace}/pods"
        self.client, self.random = Client(changes.cluster), random.Random(namespace)
        # Held during a change.
        self.busy = threading.Lock()
        self.count = 0

    def run(self):
        try:
            self.repeat()
        except Exception as error:  # the end of a thread would go unnoticed
            self.changes.failures.append(f"a change in {self.namespace}: {error!r}")

    def repeat(self):
        due = time.monotonic()
        while True:
            self.changes.is_running.wait()
            # What a hung API server delayed is made up for by one burst at most.
            due = max(due, time.monotonic() - BURST)
            time.sleep(max(0, due - time.monotonic()))
            with self.busy:
                if self.changes.is_running.is_set():
                    self.count += 1
                    due += self.period - (BURST if self.count % BURST_EVERY == 0 else 0)
                    self.change()

    def change(self):
        if self.count % WIPE_EVERY == 0:
            keys = [f"{self.namespace}/{name}" for name in NAMES]
            keys = [key for key in keys if self.changes.history.last(key)]
            return self.send(keys, None, ("DELETE", f"{self.path}?gracePeriodSeconds=0"))
        name = self.random.choice(NAMES)
        pod = self.changes.history.last(f"{self.namespace}/{name}")
        if pod is None:
            kind = "create"
        else:
            kind = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if kind == "bind" and pod["node"]:
                kind = "set_label"
        new, request = getattr(self, kind)(name, pod)
        self.send([f"{self.namespace}/{name}"], new, request)

    def create(self, name, _):
        new = {"node": None, "ip": None, "namespace": self.namespace, "name": name, "status": "Pending"}
        return new, ("POST", self.path, {"metadata": {"name": name}, "spec": SPEC})

    def set_status(self, name, pod):
        phase = self.random.choice(PHASES)
        ip = self.random.choice([None, f"10.0.{self.random.randrange(256)}.{self.random.randrange(1, 255)}"])
        status = {"phase": phase, "podIP": ip, "podIPs": ip and [{"ip": ip}]}
        new = {**pod, "ip": ip, "status": phase or "Unknown"}
        return new, ("PATCH", f"{self.path}/{name}/status", {"status": status}, MERGE)

    def set_label(self, name, pod):
        return pod, ("PATCH", f"{self.path}/{name}", {"metadata": {"labels": {"turn": str(self.count)}}}, MERGE)

    def bind(self, name, pod):
        node = f"node-{self.random.randrange(3)}"
        target = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
        return {**pod, "node": node}, ("POST", f"{self.path}/{name}/binding", target)

    def delete(self, name, _):
        return None, ("DELETE", f"{self.path}/{name}", {"gracePeriodSeconds": 0})

    def send(self, keys, new, request):
        history = self.changes.history
        history.begin(keys, new)
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, text = self.client.request(*request)
            if status in (200, 201):
                history.end(keys)
                self.changes.count()
                return
            # A pod that a lost change has deleted or half deleted is 404 or 409, and so is a change that a hung API server gave up.
            if status < 500 and status not in (404, 409, 429):
                raise ValueError(f"{request}: {status} {text.decode()}")
        # Unknown: the API server may have made the change before its response was lost.
        self.changes.lost += 1
        history.correct(self.namespace, self.rows())

    def rows(self):
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            self.changes.cluster.is_up.wait(DEADLINE)
            with contextlib.suppress(OSError, http.client.HTTPException):
                return {f"{pod['namespace']}/{pod['name']}": pod for pod in self.client.rows(self.path)}
            time.sleep(POLL)
        raise TimeoutError(f"no list of {self.path} within {DEADLINE} s")


class Changes:
    """Writers for all namespaces, which run and pause together."""

    def __init__(self, cluster, rate):
        self.cluster, self.history = cluster, History()
        self.is_running, self.failures, self.lost = threading.Event(), [], 0
        self.lock, self.operations = threading.Lock(), 0
        for namespace in NAMESPACES:
            cluster.add_namespace(namespace)
        self.writers = [Writer(self, namespace, rate / len(NAMESPACES)) for namespace in NAMESPACES]
        for writer in self.writers:
            writer.start()

    def count(self):
        with self.lock:
            self.operations += 1

    @contextlib.contextmanager
    def paused(self):
        """No change is in progress meanwhile."""
        self.is_running.clear()
        for writer in self.writers:
            if not writer.busy.acquire(timeout=DEADLINE):
                raise TimeoutError(f"a change in {writer.namespace} has not ended within {DEADLINE} s")
            writer.busy.release()
        yield
        self.is_running.set()
