"""A scripted Kubernetes API server for bench/overload: it counts requests, delays them, and fails on demand."""

import http.server
import json
import threading
import time
import urllib.parse

# Longest time of a watch in seconds; the server asks for less.
MAX_WATCH = 60


class FakeApi(http.server.ThreadingHTTPServer):
    """An API server with `waiting` free Jobs and a CPU quota with room for two.

    `statuses` maps a method to the status of every answer to it, `latency` is the time of each answer in seconds.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, waiting=0, latency=0.0, statuses=None, retry_after=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs = {"items": [a_job(number) for number in range(waiting)]}
        self.latency, self.statuses, self.retry_after = latency, statuses or {}, retry_after
        self.seen, self.lock, self.closing = [], threading.Lock(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, method, path=""):
        """Number of requests so far, without watches."""
        with self.lock:
            return sum(seen[0] == method and path in seen[1] and "watch=" not in seen[1] for seen in self.seen)

    def handle_error(self, *_):
        """Silent: the server under test may close a connection at any time."""

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeApi

    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.seen.append((self.command, self.path))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        status = self.server.statuses.get(self.command)
        if "watch" in query:
            return self.watch(query)
        time.sleep(self.server.latency)
        if status:
            return self.send(status, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status,
                                      "reason": "InternalError", "message": "scripted"})
        if self.command == "POST":
            return self.send(201, {**json.loads(body), "status": {"allowed": True}})
        return self.send(200, self.list(url.path))

    do_GET = do_POST = do_PATCH = do_DELETE = respond

    def list(self, path):
        """The list that this path names."""
        jobs = {"items": []} if "/default/" in path else self.server.jobs
        items = {"pods": {"items": []}, "jobs": jobs, "resourcequotas": {"items": [QUOTA]}}
        names = {"pods": "PodList", "jobs": "JobList", "resourcequotas": "ResourceQuotaList"}
        plural = path.rpartition("/")[2]
        return {"kind": names.get(plural, "Status"), "metadata": {"resourceVersion": "1"}, **items.get(plural, {})}

    def watch(self, query):
        """A watch without events."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.closing.wait(min(float(query.get("timeoutSeconds", MAX_WATCH)), MAX_WATCH))
        self.wfile.write(b"0\r\n\r\n")

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400 and self.server.retry_after:
            self.send_header("Retry-After", str(self.server.retry_after))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def a_job(number):
    """A free Job of the server that waits for the quota."""
    labels = {"app.kubernetes.io/name": "img-classification", "app.kubernetes.io/managed-by": "img-classification",
              "img-classification/tier": "free", "img-classification/dataset": "mnist"}
    resources = {"requests": {"cpu": "900m"}, "limits": {"cpu": "900m"}}
    return {
        "metadata": {"name": f"free-mnist-{number:05}", "namespace": "free-service", "uid": f"uid-{number}",
                     "labels": labels, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"template": {"spec": {"containers": [{"name": "classifier", "resources": resources}]}}},
        "status": {},
    }


HARD = {"requests.cpu": "2", "limits.cpu": "2"}
QUOTA = {
    "metadata": {"name": "free-cpu", "namespace": "free-service", "resourceVersion": "1"},
    "spec": {"hard": HARD},
    "status": {"hard": HARD, "used": {"requests.cpu": "0", "limits.cpu": "0"}},
}
