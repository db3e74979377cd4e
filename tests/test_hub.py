"""Published weights, from a hub that `hub_server.py` plays: no network is needed.

huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported, so every fetch runs in a process
of its own.
"""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers import random_state
from hub_server import NAME, HubServer, environment
from PIL import Image

import npresnet
from npresnet import DownloadError, MissingDependencyError, cli, hub
from npresnet.graph import build_graph
from npresnet.variants import PRETRAINED, VARIANTS

pytest.importorskip("huggingface_hub")

INSTEAD = ("give a file of your own with weights= (--weights), "
           "or use the model 'demo', which needs no download")


@pytest.fixture(scope="module")
def published() -> bytes:
    """A file such as timm's for resnetv2_18, with random numbers, in float16."""
    state = random_state(build_graph(VARIANTS["resnetv2_18"]).parameter_shapes(), seed=18)
    return safetensors.numpy.save({n: a.astype(np.float16) if a.dtype == np.float32 else a
                                   for n, a in state.items()})


@pytest.fixture
def server(published) -> Iterator[HubServer]:
    server = HubServer()
    server.publish(NAME, published)
    yield server
    server.close()


@pytest.fixture
def python(tmp_path, server):
    """A function that runs Python code (or with `cli` a command) against the server.

    Its cache is tmp_path/home.
    """
    clean = environment(tmp_path / "home", server) | dict(OPENBLAS_NUM_THREADS="1")

    def run(code="", *, cli: list[str] | None = None, **env: str) -> subprocess.CompletedProcess:
        argv = ["-m", "npresnet", *cli] if cli else ["-c", code]
        return subprocess.run([sys.executable, *argv], env=clean | env,
                              capture_output=True, text=True, timeout=60)
    return run


@pytest.fixture
def photo(tmp_path) -> str:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


FETCH = f"""
from npresnet import hub, NpresnetError
try:
    print(hub.fetch(*{NAME!r}.split(".")))
except NpresnetError as error:
    print(type(error).__name__, error)
"""
# huggingface_hub waits between its attempts.
NO_WAITING = "import time\ntime.sleep = lambda seconds: None\n"
SAYS_IF_IT_WAITS = """
import sys, time
time.sleep = lambda seconds: print(f"it waits for {seconds} seconds", file=sys.stderr)
from npresnet.__main__ import run
"""


def says(done: subprocess.CompletedProcess) -> str:
    """The one line that the code printed."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    return done.stdout.strip()


# --- what works -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_downloaded_once_and_gives_these_weights(python, server, published, tmp_path):
    path = Path(says(python(FETCH)))
    assert path.read_bytes() == published and path.is_relative_to(tmp_path / "home")
    assert server.asked("cdn").count("GET") == 1
    del server.requests[:]
    assert says(python(FETCH)) == str(path)
    assert server.requests == []                                  # not even: is it still the same?
    done = python(f"""
import npresnet
import numpy as np
model = npresnet.create_model("resnetv2_18", pretrained=True)
state = npresnet.read_weights({str(path)!r})
assert set(state) == set(model.state_dict())
assert all(np.array_equal(model.state_dict()[name], state[name]) for name in state)
assert model.num_classes == 1000 and model.pretrained_cfg["hf_hub_id"] == "timm/{NAME}"
print("fine")
""", HF_HUB_OFFLINE="1")
    assert says(done) == "fine" and server.requests == []


@pytest.mark.slow
def test_the_command_line_fetches_what_it_needs(python, server, photo):
    done = python(cli=["classify", "--model", NAME, "-k1", photo])
    assert done.returncode == 0 and done.stdout.startswith(f"{photo}\n")
    assert "Traceback" not in done.stderr
    assert server.asked("cdn").count("GET") == 1


@pytest.mark.slow
def test_a_dropped_connection_is_taken_up_again(python, server, published):
    """At once, or with an older huggingface_hub when one asks again."""
    server.cdn_does, server.times = "drop", 1
    says(python(NO_WAITING + FETCH))
    path = says(python(NO_WAITING + FETCH))
    assert Path(path).read_bytes() == published and server.asked("cdn").count("GET") == 2


# --- what fails -----------------------------------------------------------------------------------


def refused(server):
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("trouble, reason, env, advice", [
    (None, "offline mode is enabled", {"HF_HUB_OFFLINE": "1"}, "Unset HF_HUB_OFFLINE"),
    (refused, "Connection refused", {}, "Check the network"),
    ("404", "404", {}, "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("401", "401", {}, "Check HF_TOKEN and HF_ENDPOINT, if they are set"),
    ("500", "500", {}, "Try again later"),
    ("503", "503", {}, "Try again later"),
    ("hanging", "timed out", {"HF_HUB_ETAG_TIMEOUT": "1"}, "Check the network"),
], ids=["offline", "refused", "404", "401", "500", "503", "hanging"])
def test_a_failure_is_one_line_and_asked_for_once(python, server, photo, trouble, reason, env,
                                                  advice):
    """It neither asks again nor waits between: huggingface_hub alone would, for 23 seconds."""
    if callable(trouble):
        trouble(server)
    elif trouble:
        server.hub_says = trouble
    argv = ["npresnet", "classify", "--model", "resnetv2_18", photo]
    done = python(SAYS_IF_IT_WAITS + f"sys.argv = {argv!r}\nsys.exit(run())", **env)
    asked = [request.method for request in server.requests]
    assert asked == ([] if trouble in (None, refused) else ["HEAD"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    complaint = f"npresnet classify: can't fetch model.safetensors of timm/{NAME} ("
    assert done.stderr.startswith(complaint) and reason in done.stderr
    assert done.stderr.endswith(f"). {advice}, or {INSTEAD}\n")


@pytest.mark.slow
def test_a_connection_that_drops_for_good(python, server, tmp_path):
    server.cdn_does = "drop"
    message = says(python(NO_WAITING + FETCH))
    assert message.startswith(f"DownloadError can't fetch model.safetensors of timm/{NAME} (")
    assert message.endswith(INSTEAD)
    assert not list((tmp_path / "home").rglob("*.safetensors"))   # nothing that looks whole


@pytest.mark.slow
def test_the_python_interface_raises_a_download_error(python):
    code = "import npresnet\nnpresnet.create_model('resnetv2_18', pretrained=True)"
    done = python(code, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("npresnet.errors.DownloadError: can't fetch ")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [
    lambda data: data[:len(data) // 2], lambda data: data[:5], lambda data: b"",
    lambda data: b"<html>Sign in to the hotel's network</html>",
], ids=["half", "5 bytes", "empty", "a page"])
def test_a_damaged_file_in_the_cache(python, server, photo, published, damage):
    path = Path(says(python(FETCH)))
    path.resolve().write_bytes(damage(published))
    done = python(cli=["classify", "--model", "resnetv2_18", photo])
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"npresnet classify: {path}: is ")
    advice = done.stderr.partition("to have it fetched again delete ")[2]
    assert advice == f"{path.resolve()}. Or {INSTEAD}\n"
    path.resolve().unlink()                                       # the advice is sound
    assert says(python(FETCH)) == str(path) and path.read_bytes() == published


@pytest.mark.slow
def test_a_cache_that_can_not_be_written(python, tmp_path):
    (tmp_path / "home").write_text("a file where a folder has to be")
    message = says(python(FETCH))
    assert message.startswith(f"DownloadError can't fetch model.safetensors of timm/{NAME} (")
    assert message.endswith(INSTEAD)


def test_without_the_extra(monkeypatch, photo, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    want = (f"fetching {NAME} needs the extra 'hub': pip install \"npresnet[hub]\". "
            f"Or {INSTEAD}")
    with pytest.raises(MissingDependencyError) as caught:
        npresnet.create_model("resnetv2_18", pretrained=True)
    assert str(caught.value) == want and isinstance(caught.value, ImportError)
    assert cli.main(["classify", "--model", "resnetv2_18", photo]) == 2
    assert capsys.readouterr() == ("", f"npresnet classify: {want}\n")


def test_a_model_whose_weights_were_never_published(photo, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)     # not even looked at
    with pytest.raises(DownloadError) as caught:
        npresnet.create_model("resnetv2_50d", pretrained=True)
    assert str(caught.value) == ("no weights were published for resnetv2_50d; "
                                 f"published are {', '.join(PRETRAINED)}. Or {INSTEAD}")
    assert cli.main(["classify", "--model", "resnetv2_50d", photo]) == 1
    assert capsys.readouterr().err == f"npresnet classify: {caught.value}\n"


def test_pretrained_and_weights_at_once():
    with pytest.raises(ValueError, match="either pretrained=True or weights=, not both"):
        npresnet.create_model("resnetv2_18", pretrained=True, weights="x.safetensors")


def test_the_demo_needs_no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(hub, "fetch", lambda *args: pytest.fail("fetched"))
    assert npresnet.create_model("demo", pretrained=True).num_classes == 10
