"""Published weights through a hub that redirects, resumes, and goes wrong in its own ways.

`test_hub.py` has the commands and the cache; here it is the protocol. huggingface_hub reads its
environment when it is imported: one client process is kept for the cases that share one, the
others have their own.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hub_server import CLIENT, NAME, Client, HubServer, environment

import npresnet
from npresnet.variants import PRETRAINED, find_variant, split_revision

pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.slow

SMALL = safetensors.numpy.save({"a": np.arange(30_000, dtype=np.float32)})
OTHER = safetensors.numpy.save({"a": np.ones(3, np.float32)})
@pytest.fixture(scope="module")
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def kept(hub, tmp_path_factory):
    client = Client(tmp_path_factory.mktemp("hub") / "home", hub)
    yield client
    client.close()


@pytest.fixture
def server(hub):
    hub.reset()
    hub.publish(NAME, SMALL)
    return hub


@pytest.fixture
def client(kept, server):
    shutil.rmtree(kept.home, ignore_errors=True)
    kept.errors.write_text("")
    return kept


@pytest.fixture
def another(tmp_path, server):
    """A function that starts a client with variables of its own."""
    clients = []

    def start(**env: str) -> Client:
        clients.append(Client(tmp_path / f"home{len(clients)}", server, **env))
        return clients[-1]
    yield start
    for each in clients:
        each.close()


# --- what works -----------------------------------------------------------------------------------


def test_through_the_redirect_once_and_then_from_the_cache(client, server):
    path, cached = client.fetch()
    assert not cached and Path(path).read_bytes() == SMALL
    assert server.asked("cdn") == ["GET"] and set(server.asked("hub")) == {"HEAD"}
    del server.requests[:]
    assert client.fetch() == [path, True] and server.requests == []


@pytest.mark.parametrize("name", list(PRETRAINED))
def test_every_published_model(client, server, name):
    data = SMALL + b""
    server.publish(name, data)
    path, cached = client.fetch(name)
    assert not cached and Path(path).read_bytes() == data
    assert server.requests[0].path == f"/timm/{name}/resolve/main/model.safetensors"
    assert client.fetch(f"timm/{name}") == [path, True]


def test_a_dropped_connection_goes_on_where_it_stopped(client, server):
    server.cdn_does, server.times = "drop", 2
    for _ in range(3):                                            # older ones want to be asked
        found, cached = client.fetch()
        if found != "DownloadError":
            break
    assert Path(found).read_bytes() == SMALL
    ranges = [request.range for request in server.requests if request.host == "cdn"]
    print(ranges)
    begun = [int(each[6:-1]) for each in ranges[1:]]
    assert ranges[0] is None and begun == sorted(begun) and begun[0] > 0


def test_a_range_that_the_server_ignores(client, server):
    """The whole file comes again; the halves must not be joined."""
    server.cdn_does, server.times = "drop", 1
    if client.fetch()[0] == "DownloadError":
        server.cdn_does, server.times = "ignore range", 10
        message = client.fetch()
        if message[0] == "DownloadError":
            assert "Try again" in message[1]
            return
    assert Path(client.fetch()[0]).read_bytes() == SMALL


def test_a_pinned_revision(client, server):
    commit = "0123456789abcdef" * 2 + "01234567"
    server.publish(NAME, OTHER, (commit, "v1", "feature/x"))
    newest, _ = client.fetch()
    pinned, cached = client.fetch(f"timm/{NAME}@{commit}")
    assert Path(newest).read_bytes() == SMALL and Path(pinned).read_bytes() == OTHER
    assert not cached and commit in pinned
    assert client.fetch(f"{NAME}@{commit}") == [pinned, True]
    for revision in ("v1", "feature/x"):
        found, cached = client.fetch(f"{NAME}@{revision}")
        assert Path(found).read_bytes() == OTHER and not cached
        assert client.fetch(f"{NAME}@{revision}") == [found, True]
    assert client.fetch() == [newest, True]


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("says, advice", [
    ("RepoNotFound", "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("GatedRepo", "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("401", "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("403", "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("EntryNotFound", "Choose another revision, or check HF_ENDPOINT"),
    ("404", "Check"), ("429", "Try again later"), ("500", "Try again later"),
    ("503", "Try again later"),
])
def test_what_the_hub_refuses(client, server, says, advice):
    server.hub_says = says
    message = client.fails()
    assert f"). {advice}" in message and server.asked("hub") == ["HEAD"]


@pytest.mark.parametrize("does", ["403", "404", "500", "503"])
def test_what_the_other_host_refuses(client, server, does):
    server.cdn_does = does
    assert does in client.fails()
    server.cdn_does = "well"
    assert Path(client.fetch()[0]).read_bytes() == SMALL


def test_a_revision_that_is_not_there(client, server):
    message = client.fails(f"{NAME}@v9")
    assert f"Choose a revision from https://huggingface.co/timm/{NAME}/commits/main" in message
    assert client.fetch(f"{NAME}@../x")[0] == client.fetch("nothing@v1")[0] == "ValueError"


@pytest.mark.parametrize("does, reason", [
    ("wrong", "its SHA-256 is "), ("short", "onsistency check failed"),
])
def test_other_bytes_than_were_published(client, server, does, reason):
    server.cdn_does = does
    message = client.fails()
    assert reason in message and "Try again, or" in message
    server.cdn_does = "well"
    found, cached = client.fetch()
    assert not cached and Path(found).read_bytes() == SMALL


@pytest.mark.parametrize("does", ["stall", "nothing"])
def test_a_connection_that_stalls_each_time(client, server, does):
    server.cdn_does = does
    message = client.fails()
    assert "Check the network" in message or "Try again" in message


def test_the_digest_is_computed_once(another, server):
    code = CLIENT.replace("for line", "hub.hashlib.file_digest = lambda *a: print('!') or "
                                      "sys.exit('again')\nfor line")
    first = another()
    found, _ = first.fetch()
    second = Client(first.home, server, code)
    try:
        assert second.fetch() == [found, True]
    finally:
        second.close()


def test_without_a_network(another, server):
    first = another()
    found, _ = first.fetch()
    del server.requests[:]
    offline = Client(first.home, server, HF_HUB_OFFLINE="1")
    assert offline.fetch() == [found, True]
    shutil.rmtree(first.home)
    message = offline.fails()
    offline.close()
    assert "offline mode is enabled" in message.lower() and "). Unset HF_HUB_OFFLINE, or" in message
    assert server.requests == []


def test_a_token_goes_to_the_hub_alone(another, server):
    server.token = "hf_secret"
    message = another().fails()
    assert "Check HF_TOKEN" in message and "hf_secret" not in message
    del server.requests[:]
    found, _ = another(HF_TOKEN="hf_secret").fetch()
    assert Path(found).read_bytes() == SMALL
    tokens = {(request.host, request.token) for request in server.requests}
    assert tokens == {("hub", "Bearer hf_secret"), ("cdn", None)}


ON_A_FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))       # no file grows beyond it
""" + CLIENT


@pytest.mark.skipif(sys.platform == "win32", reason="limits files by setrlimit")
def test_a_full_disk(tmp_path, server):
    client = Client(tmp_path / "home", server, ON_A_FULL_DISK)
    message = client.fails()
    client.close()
    assert "). Make room on the disk, set HF_HOME to a folder on another one, or" in message


def test_a_cache_that_is_no_folder(another):
    client = another()
    client.home.write_text("a file")
    assert "). Set HF_HOME to a folder that you may write to, or" in client.fails()


@pytest.mark.skipif(sys.platform == "win32", reason="asks for a terminal")
def test_a_progress_bar_is_shown_at_a_terminal_and_nowhere_else(tmp_path, server):
    import termios
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    client = Client(tmp_path / "home", server)
    client.fetch()
    client.close()
    assert client.errors.read_text() == ""
    env = environment(tmp_path / "other", server) | {"TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", CLIENT], input=json.dumps(NAME), env=env,
                          text=True, stderr=slave, stdout=subprocess.PIPE, timeout=60)
    os.close(slave)
    shown = ""
    with suppress(OSError):                                       # how a terminal ends
        while more := os.read(master, 10**5).decode():
            shown += more
    os.close(master)
    print(repr(shown))
    assert "model.safetensors" in shown and "100%" in shown and "false" in done.stdout


# --- names ----------------------------------------------------------------------------------------


def test_revisions_in_names():
    assert split_revision("timm/resnetv2_18") == ("timm/resnetv2_18", None)
    assert split_revision("resnetv2_18@main") == ("resnetv2_18", "main")
    assert find_variant(split_revision(f"{NAME}@v1")[0])[1] == "ra4_e3600_r224_in1k"
    for bad in ("a@", "a@b@c", "a@../x", "a@b/../c", "a@/b", "a@b c", "a@b\n"):
        with pytest.raises(ValueError, match="bad revision"):
            split_revision(bad)
    for name, options in (("resnetv2_18@v1", {}), ("demo@v1", {"pretrained": True}),
                          ("resnetv2_18@v1", {"weights": "x.safetensors"})):
        with pytest.raises(ValueError, match="a revision is for published weights"):
            npresnet.create_model(name, **options)
