#!/usr/bin/env python3
"""The other clients of bench/overload and bench/deadlines, until they are killed: a process of their own, so that they do not delay
the measured client.

usage: attack.py readers HOST PORT CONNECTIONS ADDRESS...       pipelines GET /nothing, reads nothing
       attack.py loop PATH HOST PORT CONNECTIONS ADDRESS...     sends GET PATH again after each response
       attack.py poll PATH HOST PORT CONNECTIONS ADDRESS...     the same, on a new connection 5 s later

Each address gets CONNECTIONS connections. A connection that the server closes is opened again after 5 s.
"""

import heapq
import os
import resource
import selectors
import socket
import sys
import time

PIPELINE = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 400
REOPEN_PAUSE = 5.0
CONNECT_TIMEOUT = 5.0


class Reader:
    """Sends pipelined requests as long as the server takes them. The connection's end is seen at a write, or by the kernel."""

    events = selectors.EVENT_WRITE

    def __init__(self, stream):
        self.stream = stream

    def step(self):
        self.stream.send(PIPELINE)


class Loop:
    """Sends a request, reads the response, and sends the next one at once."""

    events = selectors.EVENT_READ
    request = b""

    def __init__(self, stream):
        self.stream, self.received = stream, b""
        stream.send(self.request)

    def step(self):
        data = self.stream.recv(65536)
        if not data:
            raise ConnectionError
        self.received += data
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if length and len(body) >= int(length):
            self.received = b""
            self.stream.send(self.request)


class Poll(Loop):
    """Sends a request on a connection that the server closes after its response."""

    def step(self):
        if not self.stream.recv(65536):
            raise ConnectionError


def run(kind, server, addresses):
    """Keeps a connection open for each entry of `addresses`."""
    selector = selectors.DefaultSelector()
    due = [(0.0, address) for address in addresses]
    while True:
        while due and due[0][0] <= time.monotonic():
            _, address = heapq.heappop(due)
            try:
                stream = socket.create_connection(server, CONNECT_TIMEOUT, (address, 0))
                stream.setblocking(False)
                client = kind(stream)
                selector.register(client.stream, kind.events, (client, address))
            except OSError:
                heapq.heappush(due, (time.monotonic() + REOPEN_PAUSE, address))
        for key, _ in selector.select(0.1):
            client, address = key.data
            try:
                client.step()
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(client.stream)
                client.stream.close()
                heapq.heappush(due, (time.monotonic() + REOPEN_PAUSE, address))


def main():
    kind, *rest = sys.argv[1:]
    if kind != "readers":
        path, *rest = rest
        close = "Connection: close\r\n" if kind == "poll" else ""
        Loop.request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode()
    host, port, connections, *addresses = rest
    # These clients are on other machines in reality, and take no processor time from the server.
    os.nice(10)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run({"readers": Reader, "loop": Loop, "poll": Poll}[kind], (host, int(port)), addresses * int(connections))


if __name__ == "__main__":
    main()
