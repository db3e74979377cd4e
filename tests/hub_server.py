"""A Hugging Face Hub on the loopback interface, as far as fetching one file needs it.

As the real one does, it answers for a large file with a redirect to another host, and gives the
file's digest, length and commit in headers of its own; the other host knows ranges. Both can be
told to misbehave.
"""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import npresnet

FILE = "model.safetensors"
NAME = "resnetv2_18.ra4_e3600_r224_in1k"


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
    hub_says: "well", "hanging", a status ("503"), or an error of the hub's own ("RepoNotFound",
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
        if hub.hub_says == "hanging":
            time.sleep(30)
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


# --- its clients --------------------------------------------------------------------------------

CLIENT = """
import json, sys, time
import huggingface_hub.constants
from npresnet import hub, NpresnetError
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096
time.sleep = lambda seconds: None                                 # it waits between its attempts
for line in sys.stdin:
    try:
        path, cached = hub.download(json.loads(line))
        print(json.dumps([str(path), cached]), flush=True)
    except (NpresnetError, ValueError) as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


def environment(home: Path, server: HubServer) -> dict[str, str]:
    """The variables under which huggingface_hub knows this server alone, and keeps in `home`."""
    clean = {k: v for k, v in os.environ.items()
             if not k.lower().endswith("_proxy") and not k.startswith(("HF_", "NPRESNET_"))}
    return clean | dict(HF_ENDPOINT=server.hub.url, HF_HOME=str(home), HF_HUB_DISABLE_XET="1",
                        HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1",
                        HTTP_PROXY="http://127.0.0.1:9",
                        PYTHONPATH=str(Path(npresnet.__file__).parents[1]))


class Client:
    """A process that fetches models by name."""

    def __init__(self, home: Path, server: HubServer, code: str = CLIENT, **env: str):
        clean = environment(home, server) | dict(HF_HUB_DOWNLOAD_TIMEOUT="1")
        self.home, self.errors = home, home.with_suffix(".stderr")
        self.process = subprocess.Popen([sys.executable, "-c", code], env=clean | env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors.open("w"))

    def fetch(self, name: str = NAME) -> list:
        """[path, whether it was there already], or [the error's name, its message]."""
        self.process.stdin.write(json.dumps(name) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said, self.errors.read_text()
        return json.loads(said)

    def fails(self, name: str = NAME) -> str:
        """The message of the DownloadError: one line that says what to do."""
        kind, message = self.fetch(name)
        print(message)
        assert kind == "DownloadError" and message.isprintable() and len(message) < 600
        assert message.startswith(f"can't fetch model.safetensors of timm/{name.partition('@')[0]}")
        assert message.endswith(", or give a file of your own with weights= (--weights), or use "
                                "the model 'demo', which needs no download")
        assert self.left() == [], "something is left that looks whole"
        assert self.errors.read_text() == "", "a failure is one line"
        return message

    def left(self) -> list[str]:
        """Whole files in its cache."""
        return [str(path) for path in self.home.rglob("*")
                if path.is_file() and (path.parent.name == "blobs" or "snapshots" in path.parts)
                and not path.name.endswith(".incomplete")]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
