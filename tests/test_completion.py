"""`npresnet completion`: what a shell makes of it."""
from __future__ import annotations

import shutil
import subprocess

import pytest
from cli_helpers import complaint

from npresnet.cli import main
from npresnet.commands import completion


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("words, want", [
    (["classify", "--ba"], "--backend --batch-size"), (["va"], "validate"),
    (["classify", "pho"], "photo.jpg"), (["classify", "--backend", "nu"], "numpy numba"),
    (["embed", "--output", "ho"], "holiday.npz"), (["bench", "--peers", "pe"], "peers"),
])
def test_in_bash(tmp_path, monkeypatch, capsys, words, want):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "peers").mkdir()
    for name in ("photo.jpg", "holiday.npz"):
        (tmp_path / name).touch()
    line = " ".join(["npresnet", *words])
    script = (f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
              "_shtab_npresnet; echo ${COMPREPLY[@]}")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (want, "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_gets_a_script(shell, capsys):
    shtab = pytest.importorskip("shtab")
    code = main(["completion", shell])
    out, err = capsys.readouterr()
    assert (code, "validate" in out) == ((0, True) if shell in shtab.SUPPORTED_SHELLS
                                         else (2, False)), err


def test_what_it_can_not_do(capsys, monkeypatch):
    pytest.importorskip("shtab")
    assert "leave --json out" in complaint(capsys, 2, "completion", "bash", "--json")
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    message = complaint(capsys, 2, "completion", "bash")
    assert message.endswith('completion needs shtab: pip install "npresnet[completion]"')
