"""Servers and browser pages for the tests of the page."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest
from playwright.sync_api import sync_playwright

BINARY, AXE = os.environ["BINARY"], pathlib.Path(os.environ["AXE"])
# Longest wait for an event, in seconds: most take one, on a busy machine more.
TIMEOUT = 60
# No sandbox, because the tests may run as root; the rest keeps Chromium from looking for hosts of its own.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="FOLDER", help="also take the pictures of docs/")


class Server:
    """A running server."""

    def __init__(self, folder, *arguments, port=0):
        self.folder, self.arguments, self.port = folder, arguments, port
        self.start()

    def start(self):
        """Starts the server, at the port of the last start if there was one, and returns once it knows its Jobs."""
        log = self.folder / "log"
        command = [BINARY, "serve", "--listen", f"127.0.0.1:{self.port}", "--posts-per-minute", "0", *self.arguments]
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self.folder)}
        with log.open("w") as output:
            self.process = subprocess.Popen(command, env=environment, stderr=output)
        wait(lambda: re.search(r"^listening on (.*)$", log.read_text(), re.M) or self.process.poll() is not None)
        found = re.search(r"^listening on (http://.*:(\d+))$", log.read_text(), re.M)
        assert found, log.read_text()
        self.url, self.port = found[1], int(found[2])
        kubeconfig = re.search(r"^export KUBECONFIG=(.*)$", log.read_text(), re.M)
        self.kubeconfig = kubeconfig and kubeconfig[1]
        wait(lambda: self.get("/jobs")[0] in (200, 404))

    def request(self, method, path, body=None, headers={}):
        """Returns the status and the JSON of a response."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path):
        return self.request("GET", path)

    def submit(self, tier="free", dataset="mnist"):
        """Creates a Job and returns its name."""
        status, job = self.request("POST", f"/img-classification/{tier}", {"dataset": dataset})
        assert status == 200, job
        return job["job"]

    def jobs(self):
        """Returns the Jobs by name."""
        return {job["job"]: job for job in self.get("/jobs?limit=500")[1]["jobs"]}

    def freeze(self):
        """Stops the process without its end: connections stay open, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.thaw()
        self.process.kill()
        self.process.wait()


def wait(condition):
    """Waits until a condition holds, and returns its value."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "no such event"
        time.sleep(0.05)


@pytest.fixture
def serve():
    """Returns a function that starts a server, with --local unless it has a kubeconfig."""
    with tempfile.TemporaryDirectory(prefix="img-classification-page.") as root:
        servers = []

        def start(*arguments):
            folder = pathlib.Path(root) / str(len(servers))
            folder.mkdir()
            local = [] if "--kubeconfig" in arguments else ["--local"]
            servers.append(Server(folder, *local, *arguments))
            return servers[-1]

        yield start
        for server in reversed(servers):
            server.stop()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Returns a function that opens the page of a server. A script error or a refused resource fails the test."""
    contexts, problems = [], []

    def open(url, path="/", viewport=WIDE, scheme="light", before=lambda page: None, **options):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        # An error status and a lost connection are in the console as well, and are what some tests are about.
        is_expected = lambda text: text.startswith("Failed to load resource")
        page.on("console", lambda line: line.type == "error" and not is_expected(line.text) and problems.append(line.text))
        before(page)
        page.goto(url + path)
        return page

    yield open
    for context in contexts:
        context.close()
    assert problems == []


def check_accessibility(page):
    """Fails for a violation of the rules of axe-core, in light and in dark colours."""
    # An evaluated script is not subject to the page's policy.
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        violations = page.evaluate("axe.run(document)")["violations"]
        found = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations]
        assert found == [], scheme
    page.emulate_media(color_scheme="light")
