"""Real plans read and write nothing behind their workspace, their weights and their pictures."""
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect as Linux has it")
CASES_FILE = Path(__file__).parent / "fast_guarded.py"


def run(case: str) -> subprocess.CompletedProcess:
    """A case in a process of its own, which a read too far ends."""
    return subprocess.run([sys.executable, CASES_FILE, case], capture_output=True, text=True,
                          timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["real_places", "each_one_last"])
def test_nothing_is_read_behind(case):
    done = run(case)
    said = done.stdout.splitlines()
    print(f"{len(said)} lines, the last before the end: {said[-2:]}")
    assert done.returncode == 0 and said[-1] == "done", (
        f"exit code {done.returncode} (−11: it read or wrote behind an array) after {said[-1:]}; "
        f"{done.stderr[-500:]}")


@pytest.mark.slow
def test_the_guard_works():
    done = run("a_float_too_many")
    assert -done.returncode in (signal.SIGSEGV, signal.SIGBUS), done
    assert done.stdout.startswith("inside") and "behind" not in done.stdout
