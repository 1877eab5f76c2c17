"""HTTP servers on the loopback that simulate the metadata services of AWS, Google Cloud and Azure."""

import json
import threading
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    """Passes each request to the simulated cloud."""

    def do_GET(self):
        url = urlsplit(self.path)
        cloud = self.server.cloud
        cloud.requests.append(f"{self.command} {self.path}")
        if cloud.broken:
            status, text, headers = 503, "try later", {}
        else:
            status, text, headers = cloud.answer(self.command, url.path, parse_qs(url.query), self.headers)
        body = text.encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET  # noqa: N815 - http.server calls it so

    def log_message(self, *_):
        """Prints nothing."""


class Playing:
    """A server that simulates a cloud; `announce` makes it send a preemption notice."""

    def __init__(self):
        self.requests, self.broken = [], False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.cloud = True, self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class PlayAws(Playing):
    """AWS (IMDSv2): the response to a request without a valid token is 401."""

    def __init__(self):
        super().__init__()
        self.valid, self.handed_out, self.action = set(), 0, None

    def expire_tokens(self):
        self.valid.clear()

    def announce(self, seconds, action="terminate"):
        when = datetime.fromtimestamp(time.time() + seconds, UTC)
        self.action = {"action": action, "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"}

    def answer(self, method, path, _query, headers):
        if path == "/latest/api/token":
            seconds = headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if method != "PUT" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
                return 400, "Bad Request", {}
            self.handed_out += 1
            self.valid.add(f"token-{self.handed_out}")
            return 200, f"token-{self.handed_out}", {}
        if headers.get("X-aws-ec2-metadata-token") not in self.valid:
            return 401, "Unauthorized", {}
        if path == "/latest/meta-data/spot/instance-action" and self.action:
            return 200, json.dumps(self.action), {}
        return 404, "Not Found", {}


class PlayGcp(Playing):
    """Google Cloud: requires the header Metadata-Flavor; wait_for_change returns once the value has another etag."""

    def __init__(self):
        super().__init__()
        self.preempted, self.maintenance = "FALSE", "NONE"

    def announce(self, _seconds=30):
        with self._changed:
            self.preempted = "TRUE"
            self._changed.notify_all()

    def answer(self, _method, path, query, headers):
        if headers.get("Metadata-Flavor") != "Google":
            return 403, "Missing Metadata-Flavor:Google header.", {}
        if path == "/computeMetadata/v1/instance/maintenance-event":
            return 200, self.maintenance, {"Metadata-Flavor": "Google", "ETag": "m"}
        if path != "/computeMetadata/v1/instance/preempted":
            return 404, "", {}
        with self._changed:
            if query.get("wait_for_change") == ["true"]:
                seen = query["last_etag"][0]
                self._changed.wait_for(lambda: f"e{self.preempted}" != seen, float(query["timeout_sec"][0]))
            return 200, self.preempted, {"Metadata-Flavor": "Google", "ETag": f"e{self.preempted}"}


class PlayAzure(Playing):
    """Azure: a machine of a scale set, which also receives events of other machines."""

    MACHINE = "vmss_1"

    def __init__(self):
        super().__init__()
        self.events = []

    def announce(self, seconds, kind="Preempt", machine=MACHINE):
        when = (
            "" if seconds is None else format_datetime(datetime.fromtimestamp(time.time() + seconds, UTC), usegmt=True)
        )
        self.events.append(
            {
                "EventId": f"event-{len(self.events)}", "EventType": kind, "ResourceType": "VirtualMachine",
                "Resources": [machine], "EventStatus": "Scheduled" if when else "Started", "NotBefore": when,
            }
        )  # fmt: skip

    def answer(self, _method, path, query, headers):
        if headers.get("Metadata") != "true" or "api-version" not in query:
            return 400, "Bad request", {}
        if path == "/metadata/instance/compute/name" and query.get("format") == ["text"]:
            return 200, self.MACHINE, {}
        if path == "/metadata/scheduledevents":
            return 200, json.dumps({"DocumentIncarnation": len(self.events), "Events": self.events}), {}
        return 404, "", {}


PLAYING = {"aws": PlayAws, "gcp": PlayGcp, "azure": PlayAzure}
