"""The package as a user gets it: its wheel, what an import costs, whether the README is true."""
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

import npresnet

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PHOTO = ROOT / "tutorials" / "photo.jpg"


def run(*command, cwd=ROOT, **environment):
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=os.environ | environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_just_what_it_should(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        held = {name for name in names if ".dist-info/" not in name}
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
        scripts = next(n for n in names if n.endswith("/entry_points.txt"))
        entry_points = archive.read(scripts).decode()
        assert any(n.endswith("licenses/LICENSE") for n in names)
    wanted = {str(path.relative_to(ROOT)) for package in ("npresnet", "cuda_kernels")
              for path in (ROOT / package).rglob("*")
              if path.is_file() and "__pycache__" not in path.parts}
    assert held == wanted
    assert {"npresnet/py.typed", "npresnet/demo/demo.safetensors", "npresnet/demo/config.json",
            "npresnet/imagenet1k.tsv", "npresnet/explorer/page.html"} <= held
    assert {path.split(".")[-1] for path in held} == {"py", "typed", "safetensors", "json", "tsv",
                                                      "js", "html", "css", "jpg"}
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size:.1f} MB")
    assert size < 6
    required = {re.match(r"[a-z_-]+", line.split(": ")[1]).group()
                for line in metadata.splitlines()
                if line.startswith("Requires-Dist: ") and "extra ==" not in line}
    assert required == {"numpy", "numba", "safetensors", "pillow", "tqdm"}
    assert "Requires-Python: >=3.11" in metadata and "License-Expression: Apache-2.0" in metadata
    assert f"Version: {npresnet.__version__}" in metadata
    assert "npresnet = npresnet.__main__:run" in entry_points


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
    code = ("import npresnet, cuda_kernels\n"
            "print(npresnet.__file__, cuda_kernels.__file__)")
    where = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert where.count(str(tmp_path)) == 2
    out = run(sys.executable, "-m", "npresnet", "classify", "--json", PHOTO,
              cwd=tmp_path, PYTHONPATH=str(site))
    assert len(json.loads(out)[0]["predictions"]) == 5


def test_import_is_light():
    code = """
import sys
import time
start = time.perf_counter()
import npresnet
seconds = time.perf_counter() - start
heavy = {"numpy", "numba", "PIL", "torch", "tqdm", "safetensors"}
print(seconds, *sorted({module.split(".")[0] for module in sys.modules} & heavy))
"""
    seconds, *heavy = run(sys.executable, "-c", code).split()
    print(f"import npresnet: {1e3 * float(seconds):.0f} ms")
    assert heavy == []


@pytest.mark.slow
def test_classifying_imports_no_framework():
    code = """
import sys
from npresnet.cli import main
code = main(sys.argv[1:])
frameworks = {"torch", "timm", "torchvision", "huggingface_hub"}
print(code, *sorted({module.split(".")[0] for module in sys.modules} & frameworks))
"""
    assert run(sys.executable, "-c", code, "classify", "--json", PHOTO).split("\n")[-2] == "0"


def test_public_names_exist_and_are_documented():
    for name in npresnet.__all__:
        assert getattr(npresnet, name).__doc__, name
    assert set(npresnet.__all__) <= set(dir(npresnet))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        getattr(npresnet, "nothing_like_it")  # noqa: B009
    assert callable(npresnet.compare)


def test_pyinstaller_finds_its_hook():
    from npresnet._pyinstaller import get_hook_dirs
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pyinstaller40"] == {
        "hook-dirs": "npresnet._pyinstaller:get_hook_dirs"}
    folder, = get_hook_dirs()
    assert [path.name for path in Path(folder).glob("hook-*.py")] == ["hook-npresnet.py"]


def test_cuda_kernels_say_what_is_missing():
    import cuda_kernels
    found = cuda_kernels.is_available()
    print(found.reason)
    assert found.reason and bool(found) is found.available


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_readme_examples_run(tmp_path, monkeypatch, capsys):
    """Every Python block in one namespace and every command, in the order in which they stand.

    Only the download is replaced, by random weights of the same names and shapes.
    """
    pytest.importorskip("sklearn")
    weights = tmp_path / "model.safetensors"
    npresnet.create_model("resnetv2_50", seed=1).save(weights)
    monkeypatch.setattr("npresnet.hub.fetch", lambda architecture, tag, revision: weights)
    photo = ROOT / "tutorials" / "photo.jpg"
    for name in ("photo.jpg", "holiday/dog.jpg", "holiday/cat.jpg", "val/n01440764/fish.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, tmp_path / name)
    script = tmp_path / "bin" / "npresnet"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m npresnet \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    ran = {"python": 0, "bash": 0}
    for language, block in re.findall(r"```(python|bash)\n(.*?)```", README, re.S):
        if "pdb" in block:
            continue
        ran[language] += 1
        if language == "bash":
            done = subprocess.run(["sh", "-e", "-c", block], capture_output=True, text=True)
            assert done.returncode == 0, (block, done.stderr)
            continue
        exec(compile(block, "README.md", "exec"), names)
        out = capsys.readouterr().out
        for shape in re.findall(r"print\(o.shape\) +# (.*)", block):
            assert out.split("\n")[:-1] == re.findall(r"\(.*?\)", shape)
        if "Predictor" in block:
            assert out == "photo.jpg tench, Tinca tinca\nno.jpg no.jpg: no such file\n"
    assert ran == {"python": 8, "bash": 6}
    assert names["output"].shape == (1, 1000) and names["output"].dtype == np.float32
    assert names["top5_class_indices"].shape == (1, 5)
    assert names["embedding"].shape == (1, 2048) and names["features"].shape == (1, 2048, 7, 7)
    assert names["layers"]["stages.0.blocks.0.norm1"].shape == (1, 16, 40, 40)
    assert names["likeness"][0] == pytest.approx(1, abs=1e-6)
    made = ["classes.csv", "holiday.npz", "maps.npz", "heat.png", "maps"]
    assert all((tmp_path / name).exists() for name in made)


def test_readme_script_stops_in_the_forward_pass():
    """The debugger's first stop is Network.forward, and stepping on goes through its lines."""
    script, = [block for block in blocks("python") if "pdb" in block]
    assert len(script.splitlines()) == 5
    commands = "where\nnext\np features.shape\nquit\n"
    done = subprocess.run([sys.executable, "-c", script], input=commands, capture_output=True,
                          text=True, cwd=ROOT / "tutorials", timeout=120,
                          env=os.environ | dict(PYTHONPATH=str(ROOT)))
    print(done.stdout)
    first = done.stdout.splitlines()[0]
    assert first.startswith("> ") and first.endswith("forward()") and "network.py" in first
    assert "(1, 512, 5, 5)" in done.stdout and done.stderr == ""


def test_readme_output_is_what_the_command_prints():
    setup, tests = blocks("sh")
    command = setup.split("&&")[-1].split()
    assert command[0] == ".venv/bin/npresnet"
    assert run(sys.executable, "-m", "npresnet", *command[1:]) == blocks("text")[0]
    assert tests.split("&&")[-1].split() == [".venv/bin/python", "-m", "pytest"]


def test_readme_tree_and_links_exist():
    folders: list[str] = []
    for line in blocks("text")[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        assert (ROOT / "".join(folders)).exists(), "".join(folders)
    listed = set(re.findall(r"^  (\S+\.py) ", blocks("text")[1], re.M))
    modules = {path.name for path in (ROOT / "npresnet").glob("*.py")}
    assert modules - {"__init__.py", "__main__.py"} <= listed
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    assert "@" not in re.sub(r"```.*?```|`.*?`", "", README, flags=re.S), "a placeholder is left"


def test_readme_commands_exist():
    for command in set(re.findall(r"`npresnet (\w+)", README)):
        run(sys.executable, "-m", "npresnet", command, "--help")
