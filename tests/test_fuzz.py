"""A minute's part of what `fuzz.py` does for hours, and whether it would notice."""
from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import fuzz
import fuzz_pictures
import fuzz_weights
import pytest

from npresnet.variants import VARIANTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")
SCRIPT = Path(fuzz.__file__)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """`prepare` changes the table of variants and Pillow's limit: for its own process."""
    from PIL import Image
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    before = dict(VARIANTS)
    yield
    VARIANTS.clear()
    VARIANTS.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind, cases", [("weights", 4000), ("pictures", 3000)])
def test_some_thousand_damaged_files(kind, cases):
    done = subprocess.run([sys.executable, SCRIPT, "--only", kind, "--cases", str(cases)],
                          capture_output=True, text=True, timeout=500)
    print(done.stdout, done.stderr)
    assert done.returncode == 0 and f"{kind}: {cases:,} " in done.stdout


def run(module, tmp_path, cases: int) -> dict:
    found = fuzz.load(None, seed=1)
    fuzz.fuzz({module.NAME: module}, {module.NAME: cases}, 60, found, tmp_path / "checkpoint")
    print(fuzz.told(found), found["failures"][:2])
    return found


def check_nothing(path):
    return "fine"


def other_error(path):
    raise ZeroDivisionError("a defect")


def crash(path):
    os.kill(os.getpid(), 9)


def loop(path):
    while True:
        pass


def wait(path):
    time.sleep(100)


def eat(path):
    assert len(b"a" * (150 << 20))
    return "fine"


@pytest.mark.slow
@pytest.mark.parametrize("defect, what", [
    (other_error, "a defect"), (crash, "process ended: 9"), (loop, "no end in 3 s of computing"),
    (wait, "no end in 4 s of waiting"), (eat, "bytes for a file of"),
], ids=["error", "crash", "loop", "wait", "memory"])
def test_it_notices(tmp_path, monkeypatch, defect, what):
    """Of 12 cases the one that goes wrong, by its number; the others all the same."""
    monkeypatch.setattr(fuzz, "HANGS", 3)
    monkeypatch.setattr(fuzz, "RUNAWAY", resource.RLIM_INFINITY)  # this process may be large
    monkeypatch.setattr(fuzz, "WAITS", 4)
    monkeypatch.setattr(fuzz, "BATCH", 5)
    monkeypatch.setattr(fuzz, "case", lambda module, seeds, seed, number: bytes([number]))
    monkeypatch.setattr(fuzz_weights, "check", lambda path: (
        defect if path.read_bytes() == b"\7" else check_nothing)(path))
    found = run(fuzz_weights, tmp_path, 12)
    assert [(f["case"], what in f["what"]) for f in found["failures"]] == [("weights:7", True)]
    assert found["kinds"]["weights"]["done"] == 12
    assert found["kinds"]["weights"]["outcomes"] == {"DEFECT": 1, "fine": 11}


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    checkpoint, asked = tmp_path / "found.json", []
    monkeypatch.setattr(fuzz, "BATCH", 10)
    monkeypatch.setattr(fuzz, "in_child", lambda module, seeds, seed, numbers, now, folder: (
        asked.extend(numbers), dict(outcomes={"fine": len(numbers)}, failures=[], peak=3))[1])
    for cases in ("20", "45"):
        argv = ["--only", "weights", "--cases", cases, "--checkpoint", str(checkpoint)]
        assert fuzz.main(argv) == 0
    assert asked == list(range(45))
    assert json.loads(checkpoint.read_text())["kinds"]["weights"]["outcomes"] == {"fine": 45}
    with pytest.raises(SystemExit, match="of the seed 0"):
        fuzz.main(["--cases", "1", "--seed", "1", "--checkpoint", str(checkpoint)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")         # old formats, new Pillow
@pytest.mark.parametrize("module", [fuzz_weights, fuzz_pictures], ids=lambda m: m.NAME)
def test_a_case_is_the_same_again_and_sound_seeds_are_taken(tmp_path, module):
    seeds = module.prepare()
    assert [fuzz.case(module, seeds, 3, n) for n in range(30)] == \
        [fuzz.case(module, seeds, 3, n) for n in range(30)]
    path, outcomes = tmp_path / module.NAME, []
    for seed in seeds:
        path.write_bytes(seed if isinstance(seed, bytes) else seed[1])
        outcomes.append(module.check(path))
    print(outcomes)
    if module is fuzz_weights:
        assert outcomes[:4] == ["a model"] * 4 and set(outcomes[4:]) == {"read, no model"}
    else:
        refused = {name for (name, _), outcome in zip(seeds, outcomes) if outcome == "no picture"}
        print("seeds that are refused:", refused)
        assert len(seeds) > 45 and refused <= {"EPS"}             # which needs Ghostscript


def test_one_case_by_hand(tmp_path, capsys):
    assert fuzz.main(["--case", "weights:3", "--keep", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out.startswith("weights:3: ") and (tmp_path / "kept").exists()
