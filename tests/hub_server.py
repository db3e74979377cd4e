"""A Hugging Face Hub on the loopback interface, as far as fetching one file needs it.

As the real one does, it answers for a large file with a redirect to another host, and gives the
file's digest, length and commit in headers of its own; the other host knows ranges. Both can be
told to misbehave.
"""
from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

FILE = "model.safetensors"


class Request(NamedTuple):
    """What was asked for, of which host."""
    host: str                                                     # "hub" or "cdn"
    method: str
    path: str
    token: str | None
    range: str | None


class Host(ThreadingHTTPServer):
    """One of the two hosts."""
    daemon_threads = True

    def __init__(self, name: str, hub: HubServer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.hub = name, hub
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that went away is part of the test."""


class HubServer:
    """Both hosts, and what they know.

    files: (repository, revision) → bytes. token: one that must be given, None for none.
    hub_says: "well", a status ("503"), or an error of the hub's own ("RepoNotFound",
    "EntryNotFound", "RevisionNotFound", "GatedRepo"). cdn_does: "well", a status, "drop" (cut the
    connection half way, the next `times`), "stall" (half way), "nothing" (stall before), "wrong"
    (other bytes of the same length), "short" (too few, and say so), "ignore range".
    """

    def __init__(self):
        self.files: dict[tuple[str, str], bytes] = {}
        self.requests: list[Request] = []
        self.hub, self.cdn = Host("hub", self), Host("cdn", self)
        self.reset()

    def reset(self) -> None:
        """As it was."""
        self.hub_says = self.cdn_does = "well"
        self.times, self.token = 10**9, None
        self.files.clear()
        del self.requests[:]

    def publish(self, name: str, data: bytes, revisions: tuple[str, ...] = ("main",)) -> None:
        """Put a file into the repository timm/<name>."""
        for revision in revisions:
            self.files[f"timm/{name}", revision] = data

    def asked(self, host: str) -> list[str]:
        """The methods of all requests to one host."""
        return [request.method for request in self.requests if request.host == host]

    def close(self) -> None:
        for host in (self.hub, self.cdn):
            host.shutdown()
            host.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""
    protocol_version = "HTTP/1.1"
    server: Host

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *args):
        pass

    def answer(self) -> None:
        hub = self.server.hub
        if self.path.startswith(("/timm/", "/cdn/")):             # others are the library's own
            hub.requests.append(Request(self.server.name, self.command, self.path,
                                        self.headers.get("Authorization"),
                                        self.headers.get("Range")))
        if self.server.name == "cdn":
            self.answer_as_cdn(hub)
        else:
            self.answer_as_hub(hub)

    def say(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": "0"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_as_hub(self, hub: HubServer) -> None:
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.rpartition("/")
        data = hub.files.get((repo, revision.replace("%2F", "/")))
        if hub.hub_says.isdigit():
            self.say(int(hub.hub_says))
        elif hub.hub_says != "well":
            status = 401 if hub.hub_says == "GatedRepo" else 404
            self.say(status, X_Error_Code=hub.hub_says, X_Error_Message="as the test wants it")
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.say(401, X_Error_Code="RepoNotFound")
        elif data is None or name != FILE:
            known = any(repo == other for other, _ in hub.files)
            code = "EntryNotFound" if data is not None else \
                "RevisionNotFound" if known else "RepoNotFound"
            self.say(404, X_Error_Code=code)
        else:
            digest = hashlib.sha256(data).hexdigest()
            self.say(302, Location=f"{hub.cdn.url}/cdn/{digest}?signature=s", ETag='"pointer"',
                     X_Linked_ETag=f'"{digest}"', X_Linked_Size=str(len(data)),
                     X_Repo_Commit=revision if len(revision) == 40 else digest[:40])

    def answer_as_cdn(self, hub: HubServer) -> None:
        digest = self.path.removeprefix("/cdn/").partition("?")[0]
        data = next(data for data in hub.files.values()
                    if hashlib.sha256(data).hexdigest() == digest)
        does = hub.cdn_does if hub.times > 0 else "well"
        hub.times -= 1
        if does.isdigit():
            self.say(int(does))
            return
        if does == "nothing":
            time.sleep(3)
        if does == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if does == "short":
            data = data[:-1]
        asked = self.headers.get("Range", "bytes=0-") if does != "ignore range" else "bytes=0-"
        begin = int(asked.removeprefix("bytes=").partition("-")[0])
        more = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        self.say(206 if begin else 200, Content_Length=str(len(data) - begin), ETag=f'"{digest}"',
                 Content_Disposition=f'inline; filename="{FILE}";', **more)
        if self.command == "HEAD":
            return
        half = (len(data) - begin) // 2
        self.wfile.write(data[begin:begin + half])
        self.wfile.flush()
        if does == "stall":
            time.sleep(3)
        if does in ("drop", "stall"):
            self.close_connection = True
        else:
            self.wfile.write(data[begin + half:])
