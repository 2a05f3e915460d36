"""The control plane of bench/watch_soak.py, its faults, and the server's connections to it. This module measures nothing."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
CLUSTER = os.path.join(HERE, "..", "tests", "cluster")
PODS = "/api/v1/pods"
FIELDS = ("node", "ip", "namespace", "name", "status")
# Deadline of every event that the script waits for, in seconds: a start of the API server takes 10 s on a busy machine.
DEADLINE = 120
# Pause between two looks for an event, in seconds.
POLL = 0.1


def wait_for(what, is_done, seconds=DEADLINE):
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {seconds} s")
        time.sleep(POLL)


def row(pod):
    """A pod of the API server as a row of GET /config."""
    spec, status = pod["spec"], pod.get("status", {})
    values = (spec.get("nodeName"), status.get("podIP"), pod["metadata"]["namespace"], pod["metadata"]["name"],
              status.get("phase") or "Unknown")
    return dict(zip(FIELDS, values))


class Client:
    """A kept-alive connection to the API server, with the administrator's certificate."""

    def __init__(self, cluster):
        context = ssl.create_default_context(cafile=cluster.pki("ca.crt"))
        context.load_cert_chain(cluster.pki("admin.crt"), cluster.pki("admin.key"))
        self.connection = http.client.HTTPSConnection("127.0.0.1", cluster.port, context=context, timeout=DEADLINE)

    def request(self, method, path, body=None, kind="application/json"):
        """Returns the status and the text of the response."""
        try:
            self.connection.request(method, path, body and json.dumps(body), {"Content-Type": kind})
            response = self.connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def get(self, path):
        status, text = self.request("GET", path)
        if status != 200:
            raise ConnectionError(f"GET {path}: {status} {text.decode()}")
        return text

    def rows(self, path=PODS):
        """The pods as rows of GET /config, in the order of the list."""
        return [row(pod) for pod in json.loads(self.get(path))["items"]]


class Cluster:
    """An API server with its etcd, without controllers and nodes."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="img-classification-soak.")
        self.state = self.folder.name
        # Set while the API server is ready, or only hangs.
        self.is_up = threading.Event()

    def __enter__(self):
        try:
            subprocess.run([os.path.join(HERE, "control-plane"), self.state], check=True)
            with open(os.path.join(self.state, "port")) as file:
                self.port = int(file.read())
            self.admin = Client(self)
            self.is_up.set()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run([os.path.join(CLUSTER, "down"), self.state], check=True)
        self.folder.cleanup()

    def set_up(self, binary):
        """Grants the permissions of a server."""
        environment = {**os.environ, "KUBECONFIG": os.path.join(self.state, "admin.conf")}
        subprocess.run([binary, "setup"], env=environment, check=True, stdout=subprocess.DEVNULL)

    def pki(self, name):
        return os.path.join(self.state, "pki", name)

    def config(self, port):
        """A kubeconfig with the permissions of a server, for the API server behind this port."""
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": self.pki("ca.crt")}
        user = {"client-certificate": self.pki("server.crt"), "client-key": self.pki("server.key")}
        return {"apiVersion": "v1", "kind": "Config", "current-context": "soak",
                "contexts": [{"name": "soak", "context": {"cluster": "soak", "user": "soak"}}],
                "clusters": [{"name": "soak", "cluster": cluster}], "users": [{"name": "soak", "user": user}]}

    def add_namespace(self, name):
        self.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        # No controller creates it, and the API server admits no pod without it.
        self.admin.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})

    def lists(self):
        """The number of lists of the pods of all namespaces since the start of the API server."""
        metrics = self.admin.get("/metrics").decode()
        lines = re.findall(r"^apiserver_request_total\{(.*)\} (\d+)$", metrics, re.MULTILINE)
        wanted = ('resource="pods"', 'scope="cluster"', 'verb="LIST"')
        return sum(int(count) for labels, count in lines if all(label in labels for label in wanted))

    def is_ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.admin.request("GET", "/readyz")[0] == 200
        return False

    def kill(self):
        self.is_up.clear()
        subprocess.run([os.path.join(CLUSTER, "apiserver"), self.state, "kill"], check=True)

    def start(self):
        """Starts the API server, and returns when it accepts connections."""
        subprocess.run([os.path.join(CLUSTER, "apiserver"), self.state, "start"], check=True)
        wait_for("connection to the API server", self.accepts)

    def wait_until_ready(self):
        wait_for("ready API server", self.is_ready)
        self.is_up.set()

    def accepts(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), DEADLINE):
            return True
        return False

    def signal(self, number):
        with open(os.path.join(self.state, "pids", "apiserver")) as file:
            os.kill(int(file.read()), number)

    @contextlib.contextmanager
    def hung(self):
        """The API server is stopped meanwhile; its connections stay open."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def compact(self):
        """Compacts all versions of etcd before a new one."""
        key = base64.b64encode(b"/soak").decode()
        revision = self.etcd("put", {"key": key, "value": key})["header"]["revision"]
        self.etcd("compaction", {"revision": revision, "physical": True})

    def etcd(self, operation, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port + 1, timeout=DEADLINE)
        connection.request("POST", f"/v3/kv/{operation}", json.dumps(body))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status != 200:
            raise ConnectionError(f"etcd: {operation}: {response.status} {text.decode()}")
        return json.loads(text)

    def version(self):
        return json.loads(self.admin.get(f"{PODS}?limit=1"))["metadata"]["resourceVersion"]

    def has_expired(self, version):
        """Tests if a watch from this version is refused, as it is too old."""
        status, text = self.admin.request("GET", f"{PODS}?watch=1&timeoutSeconds=1&resourceVersion={version}")
        return status == 410 or b'"code":410' in text


class Link:
    """A TCP relay between the server and the API server, which can stop to relay while the connections stay open."""

    def __init__(self, port):
        self.target, self.is_open = port, threading.Event()
        self.is_open.set()
        self.listener = self.listen(0)
        self.port = self.listener.getsockname()[1]

    def listen(self, port):
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        return listener

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        self.is_open.wait()
        try:
            upstream = socket.create_connection(("127.0.0.1", self.target), DEADLINE)
        except OSError:
            return close(client)
        upstream.settimeout(None)
        threading.Thread(target=self.relay, args=(client, upstream), daemon=True).start()
        self.relay(upstream, client)

    def relay(self, source, sink):
        try:
            while data := source.recv(65536):
                self.is_open.wait()
                sink.sendall(data)
            self.is_open.wait()
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            close(source)
            close(sink)

    @contextlib.contextmanager
    def refused(self):
        """Connections are refused meanwhile, as by a host whose API server has ended."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        try:
            yield
        finally:
            self.listener = self.listen(self.port)

    @contextlib.contextmanager
    def silent(self):
        """Nothing passes meanwhile."""
        self.is_open.clear()
        try:
            yield
        finally:
            self.is_open.set()


def close(connection):
    """Closes a connection that another thread may read, as the kernel does for a killed process."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
