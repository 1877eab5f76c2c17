"""A real S3 server on the loopback, behind a proxy that tests can make slow, busy or unreachable."""

import http.client
import logging
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

BUCKET = "bucket"
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class S3:
    """moto's server with an empty bucket, behind a proxy whose address is the only one in URIs."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.put("", b"")
        self.proxy = Proxy(self.port)

    def uri(self, path, bucket=BUCKET):
        return f"s3://{bucket}/{path}?endpoint_override=127.0.0.1:{self.proxy.port}&scheme=http"

    def put(self, key, content):
        """Writes an object with any name; creates the bucket if the name is empty."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/0/us-east-1/s3/x"}
        name = key.replace(".", "%2E").replace("\\", "%5C")
        connection.request("PUT", f"/{BUCKET}/{name}".rstrip("/"), content, signed)
        assert connection.getresponse().status == 200
        connection.close()

    def close(self):
        self.proxy.vanish()
        self._server.stop()


class Proxy:
    """Forwards requests, with simulated faults.

    Attributes:
        delay: seconds before each response.
        refuse: function of (method, path) that returns True if the response is 503.
        requests: (method, path) of all requests.
    """

    def __init__(self, target):
        self.target, self.port = target, 0
        self.delay, self.refuse, self.requests = 0.0, lambda method, path: False, []
        self._connections = set()
        self.appear()

    def appear(self):
        """Accepts connections, on the same port as before."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                proxy._connections.add(self.connection)

            def finish(self):
                proxy._connections.discard(self.connection)
                super().finish()

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.body()
                proxy.requests.append((self.command, self.path))
                time.sleep(proxy.delay)
                if proxy.refuse(self.command, self.path):
                    self.answer(503, [], BUSY)
                    return
                behind = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=60)
                behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                        behind.putheader(name, value)
                behind.putheader("Content-Length", str(len(body)))
                behind.endheaders(body)
                answer = behind.getresponse()
                self.answer(answer.status, answer.getheaders(), answer.read(), answer.getheader("Content-Length"))
                behind.close()

            def body(self):
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(parts)

            def answer(self, status, headers, body, length=None):
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def vanish(self):
        """Closes all connections, and refuses new ones."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Prints nothing, because connections are closed on purpose."""
