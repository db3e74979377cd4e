"""Nothing of a file's tensors is read before all of its header fits, and nothing is waited for."""
from __future__ import annotations

import errno
import gc
import mmap
import os
import socket
import subprocess
import sys
import weakref

import numpy as np
import pytest
from tiny_weights import (
    CLASSES,
    X,
    assert_same_state,
    by_hand,
    entry,
    error_of,
    file_fixture,
    state_fixture,
    tiny_model,
    tiny_state,
    tiny_variants,
)

from npresnet import WeightsError, create_model, read_weights, tensor_files, write_weights
from npresnet.graph import build_graph
from npresnet.loading import HEADER_LIMIT
from npresnet.variants import DEMO, VARIANTS
from npresnet.weights import check_file, release

SPARSE = 6 * 2**30                                                # bytes, none of them on the disk
WITHIN_HALF_A_GIGABYTE = """
import resource, sys
import npresnet
npresnet.create_model
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = now + SPARSE + 2**29                                      # mapping the file costs nothing
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        npresnet.create_model("resnetv2_18", weights=path, backend="numpy")
    except npresnet.WeightsError as error:
        print(error)
""".replace("SPARSE", str(SPARSE))


def sparse(path, header, size=SPARSE):
    by_hand(path, header)
    os.truncate(path, path.stat().st_size + size)
    return path


# --- before anything is converted -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is in memory")
@pytest.mark.parametrize("code", ["F16", "BF16", "F64", "F32"])
def test_a_large_sparse_file_that_does_not_fit_is_refused_by_its_header(tmp_path, code):
    """Converting 6 GB would take a minute and many times their memory."""
    shapes = build_graph(VARIANTS["resnetv2_18"]).parameter_shapes()
    size = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[code]
    header, at = {}, 0
    for name, shape in shapes.items():
        kind, item = ("I64", 8) if name.endswith("tracked") else (code, size)
        end = at + item * int(np.prod(shape))
        header[name] = entry(kind, shape, at, end)
        at = end
    last = "head.fc.weight"
    begin = header.pop(last)["data_offsets"]
    header |= {name: entry(e["dtype"], e["shape"], *(o - begin[1] + begin[0] for o in
                                                     e["data_offsets"]))
               for name, e in header.items() if e["data_offsets"][0] >= begin[1]}
    at -= begin[1] - begin[0]
    rest = (SPARSE - at) // size * size
    names = [sparse(tmp_path / "alone", {"a": entry(code, [SPARSE // size], 0, SPARSE)}),
             sparse(tmp_path / "shape",
                    header | {last: entry(code, [rest // size], at, at + rest)}, at + rest),
             sparse(tmp_path / "more",
                    header | {"a": entry(code, [rest // size], at, at + rest)}, at + rest)]
    done = subprocess.run([sys.executable, "-c", WITHIN_HALF_A_GIGABYTE, *names], timeout=60,
                          capture_output=True, text=True)
    print(done.stdout, done.stderr)
    alone, shape, more = done.stdout.splitlines()
    assert alone.startswith(f"{tmp_path}/alone: missing tensor stem.conv.weight")
    assert shape.startswith(f"{tmp_path}/shape: head.fc.") and "expected shape" in shape
    assert more.startswith(f"{tmp_path}/more: missing tensor head.fc.weight")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is in memory")
def test_a_fitting_tensor_too_large_for_the_memory(tmp_path):
    """The number of classes is the file's own affair."""
    shapes = build_graph(VARIANTS["resnetv2_18"]).parameter_shapes()
    classes = SPARSE // 2 // 512 - 2**14
    header, at = {}, 0
    for name, shape in shapes.items():
        kind, item = ("I64", 8) if name.endswith("tracked") else ("F16", 2)
        own = (classes, *shape[1:]) if name.startswith("head.fc.") else shape
        end = at + item * int(np.prod(own))
        header[name] = entry(kind, own, at, end)
        at = end
    path = sparse(tmp_path / "a", header, at)
    done = subprocess.run([sys.executable, "-c", WITHIN_HALF_A_GIGABYTE, path], timeout=60,
                          capture_output=True, text=True)
    print(done.stdout, done.stderr)
    want = f"{path}: not enough memory for a tensor of {classes * 512:,} numbers\n"
    assert done.stdout == want


@pytest.mark.parametrize("spoil, found", [
    (lambda s: s.pop("head.fc.bias"), "missing tensor head.fc.bias"),
    (lambda s: s.update(more=X), "unexpected tensor more"),
    (lambda s: s.update({"head.fc.bias": np.zeros(5, "f2")}), "head.fc.bias: expected shape"),
    (lambda s: s.update({"head.fc.bias": np.zeros(CLASSES, "i4")}), "head.fc.bias: expected a flo"),
    (lambda s: s.update({"stem.conv.weight": np.zeros((8, 3, 7, 8), "f2")}), "stem.conv.weight: "),
], ids=["missing", "unexpected", "shape", "dtype", "first"])
@pytest.mark.parametrize("options", [{}, {"in_chans": 1}, {"num_classes": CLASSES}], ids=str)
def test_no_tensor_is_read_before_all_fit(tmp_path, state, spoil, found, options, monkeypatch):
    half = {n: a.astype("f2") if a.dtype.kind == "f" else a for n, a in state.items()}
    spoil(half)
    write_weights(tmp_path / "a.safetensors", half)
    monkeypatch.setattr(tensor_files.WeightsFile, "data", lambda self: pytest.fail("touched"))
    message = error_of(create_model, "tiny", weights=tmp_path / "a.safetensors", **options)
    assert found in message


def test_first_weights_are_adapted_and_checked_again(tmp_path, state):
    state["stem.conv.weight"][0, :, 0, 0] = 3e38
    write_weights(tmp_path / "a.safetensors", state)
    message = error_of(create_model, "tiny", weights=tmp_path / "a.safetensors", in_chans=1)
    assert "stem.conv.weight: expected finite numbers, found Inf" in message


@pytest.mark.slow
def test_far_too_many_tensors_are_refused_by_the_headers_length(tmp_path, monkeypatch):
    header, at = {}, 0
    while len(header) < 20_000:
        header[f"stages.0.blocks.{len(header)}"] = entry("F32", [1], at, at + 4)
        at += 4
    path = by_hand(tmp_path / "a.safetensors", header, bytes(at))
    assert len(read_weights(path)) == 20_000
    monkeypatch.setattr(tensor_files.json, "loads", lambda *a, **k: pytest.fail("parsed"))
    message = error_of(create_model, "tiny", weights=path)
    assert "far too many tensors" in message


def test_the_largest_networks_header_is_far_below_the_limit():
    lengths = {}
    for variant in (*VARIANTS.values(), DEMO):
        shapes = build_graph(variant).parameter_shapes()
        header = {name: entry("BF16", shape, 10**9, 10**9) for name, shape in shapes.items()}
        lengths[variant.name] = len(str(header))
    print(max(lengths.values()), "bytes")
    assert max(lengths.values()) < HEADER_LIMIT / 6


# --- messages -------------------------------------------------------------------------------------

LONG = "ab\n" * 40_000
LONG_HEADERS = {
    "names": ({LONG + str(i): entry("F32", [1], 4 * i, 4 * i + 4) for i in range(4)}, 16),
    "a dtype": ({LONG: entry(LONG, [1], 0, 4)}, 4),
    "no entry": ({LONG: LONG}, 0),
    "many axes": ({LONG: entry("F32", [1] * 300_000, 0, 4)}, 4),
    "many long axes": ({LONG: entry("F32", [2**63] * 20_000, 0, 4)}, 4),
    "long axes": ({"a": entry("F32", [2**62] * 60, 0, 4)}, 4),
    "gaps": ({LONG: entry("F32", [1], 10**18, 10**18 + 4)}, 4),
    "far": ({LONG: entry("F32", [2**60], 0, 2**62)}, 4),
    "numbers": (b'{"a":' + b"9" * 4000 + b"}", 0),
    "digits": (b'{"a":' + b"9" * 5000 + b"}", 0),
    "no bytes": ({"a": entry("F32", [0] * 63 + [2**60], 0, 0)}, 0),
    "axes": ({"stem.conv.weight": entry("F32", [1] * 60, 0, 4)}, 4),
}


@pytest.mark.parametrize("header, size", LONG_HEADERS.values(), ids=LONG_HEADERS)
def test_a_message_is_short_whatever_the_file_holds(tmp_path, header, size):
    path = by_hand(tmp_path / "a", header, bytes(size))
    message = error_of(create_model, "tiny", weights=path)
    print(message)
    assert len(message) - len(str(path)) < 400
    try:
        read_weights(path)
    except WeightsError as error:
        assert len(str(error)) - len(str(path)) < 400


def test_a_message_about_a_state_dict_is_short(state):
    odd = np.zeros(1, [(f"field{i}", "f4") for i in range(1000)])
    cases = [state | {LONG + "1": X, LONG + "2": X, LONG + "3": X},
             state | {"norm.bias": np.zeros([1] * 60)}, state | {"norm.bias": LONG},
             state | {"norm.bias": np.broadcast_to(odd, state["norm.bias"].shape)}]
    for case in cases:
        message = error_of(tiny_model().load_state_dict, case)
        assert len(message) < 400, message


# --- what is no file ------------------------------------------------------------------------------


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)                                   # names of sockets are short
    os.mkfifo("pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("pipe", "link", "socket", "/dev/zero", "/dev/tty", "."):
            for call in (read_weights, check_file, lambda p: create_model("tiny", weights=p)):
                message = error_of(call, name)
                want = "is a folder" if name == "." else "is not a regular file"
                assert message.startswith(f"{name}: {want}"), message


@pytest.mark.timeout(20)
def test_a_pipe_put_in_place_of_the_file_just_now_is_not_waited_for(tmp_path, file, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    sound, stat = os.stat(file), os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: sound if path == tmp_path / "pipe" else
                        stat(path, **k))
    assert "is not a regular file" in error_of(read_weights, tmp_path / "pipe")


# --- where files can't be mapped, and letting go of them ------------------------------------------


@pytest.mark.parametrize("why", ["no mmap", "Windows"])
def test_where_a_file_can_not_be_mapped_it_is_read(tmp_path, file, state, why, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.ENODEV, "No such device")

    want = tiny_state(state)
    if why == "Windows":
        monkeypatch.setattr(tensor_files, "_READS_ALL", True)
        monkeypatch.setattr(mmap, "mmap", lambda *a, **k: pytest.fail("mapped"))
    else:
        monkeypatch.setattr(mmap, "mmap", refuse)
    model = create_model("tiny", weights=file)
    got = model.state_dict()
    assert_same_state(got, want)
    assert not any(array.flags.writeable for array in got.values())
    model.save(file)
    file.write_bytes(b"")                                         # nothing holds on to it
    assert_same_state(model.state_dict(), want)
    message = error_of(create_model, "tiny", weights=file)
    assert message == f"{file}: is empty"


def test_a_file_that_is_cut_short_while_it_is_read(file, monkeypatch):
    """Between its header and its tensors."""
    sound = tensor_files._contents
    monkeypatch.setattr(tensor_files, "_contents", lambda file: bytes(sound(file))[:-4])
    assert error_of(read_weights, file) == f"{file}: was changed while it was being read"


def mapped(path) -> bool:
    with open("/proc/self/maps") as maps:
        return str(path) in maps.read()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is mapped")
@pytest.mark.parametrize("value, options", [(np.nan, {}), (-1, {}), (np.nan, {"in_chans": 1})])
def test_an_error_does_not_keep_the_file_in_memory(tmp_path, state, value, options):
    """A notebook keeps the last error, with the variables of all functions on its way."""
    path = tmp_path / "a.safetensors"
    state["norm.running_var"][5] = value
    write_weights(path, state)
    gc.disable()
    try:
        with pytest.raises(WeightsError) as caught:
            create_model("tiny", weights=path, **options)
        assert caught.value.__traceback__ is not None and not mapped(path)
        open_files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{n}")]
        assert str(path) not in open_files
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is mapped")
def test_a_model_that_is_gone_lets_go_of_its_file(file):
    gc.disable()
    try:
        model = create_model("tiny", weights=file, backend="numpy")
        gone = weakref.ref(model)
        assert mapped(file)
        del model
        assert gone() is None and not mapped(file)
    finally:
        gc.enable()


def test_releasing_locked_pages_is_no_error(tmp_path, monkeypatch):
    class Locked(mmap.mmap):
        def madvise(self, *args):
            raise OSError(errno.EINVAL, "Invalid argument")

    path = tmp_path / "a"
    path.write_bytes(bytes(2**14))
    with open(path, "rb") as file:
        locked = Locked(file.fileno(), 0, access=mmap.ACCESS_READ)
    release(np.frombuffer(locked, np.float32))


