"""Fake services on loopback: a Kubernetes API that records tokens, and the services of AWS that give credentials."""

import base64
import hashlib
import http.server
import json
import queue
import ssl
import subprocess
import threading
import urllib.parse

EXPIRATION = "2099-01-01T00:00:00Z"


class Server(http.server.ThreadingHTTPServer):
    """A server on a free port of 127.0.0.1, with TLS if there is a certificate."""

    daemon_threads = True

    def __init__(self, handler, certificate=None):
        super().__init__(("127.0.0.1", 0), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client may leave


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body in one packet, which waits for no acknowledgement.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()

    def answer(self, status, body, media_type="application/json"):
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def certificate(folder):
    """Makes a CA and a certificate of 127.0.0.1, and returns the paths of the certificate with its key, and of the CA."""

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=folder)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-days", "7", "-subj", "/CN=CA of the tests", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "7",
            "-extfile", "names", "-out", "server.crt")
    both = folder / "server.pem"
    both.write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
    return both, folder / "ca.pem"


def url_of(authorization):
    """Returns the presigned URL in an Authorization header."""
    token = authorization.removeprefix("Bearer k8s-aws-v1.")
    assert token != authorization, f"no token of EKS: {authorization[:24]}"
    assert "=" not in token, "a token has no padding"
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()


class Api(Server):
    """A Kubernetes API: it accepts the requests for which `verify` returns true, and keeps their tokens."""

    def __init__(self, certificate, verify=lambda authorization: True):
        self.tokens = queue.Queue()
        api = self

        class Kubernetes(Handler):
            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body, authorization = self.body(), self.headers.get("Authorization", "")
                if not verify(authorization):
                    status = {"kind": "Status", "apiVersion": "v1", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"}
                    return self.answer(401, json.dumps(status))
                api.tokens.put(authorization)
                if self.command == "POST" and self.path.startswith("/apis/batch/"):
                    return self.answer(201, body)
                if self.path == "/version":
                    return self.answer(200, json.dumps({"major": "1", "minor": "33", "gitVersion": "v1.33.0"}))
                status = {"kind": "Status", "apiVersion": "v1", "code": 404, "reason": "NotFound", "message": "not found"}
                self.answer(404, json.dumps(status))

        super().__init__(Kubernetes, certificate)


class Aws(Server):
    """STS, the instance metadata service and the endpoint of a container. The credentials depend on the request only."""

    def __init__(self, certificate=None):
        self.seen = []
        aws = self

        class Services(Handler):
            def do_PUT(self):
                self.answer(200, "imds-session", "text/plain")

            def do_GET(self):
                aws.seen.append(("GET", self.path, dict(self.headers)))
                if self.path == "/container":
                    return self.answer(200, metadata("container"))
                if self.headers.get("X-aws-ec2-metadata-token") != "imds-session":
                    return self.answer(401, "")
                texts = {
                    "/latest/meta-data/iam/security-credentials/": "mp12-host",
                    "/latest/meta-data/iam/security-credentials/mp12-host": metadata("instance"),
                    "/latest/meta-data/placement/region": "eu-west-1",
                    "/latest/meta-data/placement/availability-zone/": "eu-west-1a",
                }
                self.answer(200 if self.path in texts else 404, texts.get(self.path, ""), "text/plain")

            def do_POST(self):
                form = dict(urllib.parse.parse_qsl(self.body()))
                caller = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
                aws.seen.append(("POST", form, dict(self.headers)))
                key, secret, token = credential(f"{form.get('RoleArn')} by {caller}{form.get('WebIdentityToken', '')}")
                action = form["Action"]
                self.answer(200, (
                    f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
                    f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>"
                    f"<Expiration>{EXPIRATION}</Expiration></Credentials></{action}Result></{action}Response>"
                ), "text/xml")

        super().__init__(Services, certificate)


def credential(source):
    digest = hashlib.sha256(source.encode()).digest()
    return "ASIA" + base64.b32encode(digest)[:16].decode(), base64.b64encode(digest).decode()[:40], base64.b64encode(digest * 9).decode()


def metadata(source):
    key, secret, token = credential(source)
    return json.dumps({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key, "SecretAccessKey": secret, "Token": token,
                       "Expiration": EXPIRATION})
