"""A server that accepts connections and then fails each of them in the same way: an API server or a proxy of bench/deadlines."""

import socketserver
import threading

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2000\r\n\r\n"
DRIP_INTERVAL = 1.0
LATE_TUNNEL = 2.5


class FaultyServer(socketserver.ThreadingTCPServer):
    """Waits on each connection for the first bytes of a request, counts it, and calls `fault`."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, fault):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.port = fault, self.server_address[1]
        self.requests, self.lock, self.closing = 0, threading.Lock(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """Silent: the server under test may close a connection at any time."""

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        if self.request.recv(65536):
            with self.server.lock:
                self.server.requests += 1
            self.server.fault(self.request, self.server.closing)


# Faults: each gets the connection and the event that ends it.


def silence(_stream, closing):
    closing.wait()


def head_only(stream, closing):
    stream.sendall(HEAD)
    closing.wait()


def slow_head(stream, closing):
    drip(stream, closing, HEAD)


def slow_body(stream, closing):
    stream.sendall(HEAD)
    drip(stream, closing, b"{" * 2000)


def drip(stream, closing, data):
    for byte in data:
        stream.sendall(bytes([byte]))
        if closing.wait(DRIP_INTERVAL):
            return


def late_tunnel(stream, closing):
    """A proxy that opens the tunnel late; the server behind it is silent."""
    if not closing.wait(LATE_TUNNEL):
        stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        closing.wait()
