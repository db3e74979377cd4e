"""The tutorials run, with their solutions; outputs are committed; what they point at exists."""
from __future__ import annotations

import ast
import os
import pkgutil
import re
from pathlib import Path

import pytest
from PIL import Image

import npresnet
from npresnet.cli import COMMANDS

nbformat = pytest.importorskip("nbformat", reason="the tutorials need nbformat")

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
LIMIT = 600_000                                                   # bytes, outputs included

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def section(notebook, title: str) -> str:
    """The text between the heading `title` and the next heading of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", markdown(notebook), re.M | re.S)
    assert found, f"no section '## {title}'"
    return found[1]


def solutions(notebook) -> list[str]:
    """The Python blocks hidden in <details>."""
    hidden = re.findall(r"<details>(.*?)</details>", section(notebook, "Exercises"), re.S)
    return [block for text in hidden for block in re.findall(r"```python\n(.*?)```", text, re.S)]


def checked(source: str) -> list[str]:
    """The keys of the questions that are answered in `source`."""
    return re.findall(r"\bcheck\(\"(\w+)\"", source)


def shows_something(source: str) -> bool:
    """Whether a cell calls print or plt.show at its top level.

    Loops and branches count, functions don't.
    """
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.M))
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "plt.show"):
            return True
        todo += ast.iter_child_nodes(node)
    return False


def test_there_are_tutorials():
    assert NOTEBOOKS, f"no notebooks in {TUTORIALS}"


def execute(notebook) -> None:
    """Run a notebook in a fresh kernel, in the folder of the tutorials, its solutions behind the
    last cell; nothing may fail or warn, and each solution has to be called right."""
    nbclient = pytest.importorskip("nbclient", reason="executing the tutorials needs nbclient")
    for module in ("ipykernel", "ipywidgets", "matplotlib"):
        pytest.importorskip(module, reason=f"the tutorials need {module}")
    own = len(notebook.cells)
    notebook.cells += [nbformat.v4.new_code_cell(block) for block in solutions(notebook)]
    package = str(Path(npresnet.__file__).resolve().parents[1])   # the kernel has to import it too
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3",
                                     resources={"metadata": {"path": str(TUTORIALS)}})
    client.execute(env=os.environ | {"PYTHONPATH": search})       # raises with the cell's traceback
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in told if not text.startswith("npresnet: compiling")]
    for cell in notebook.cells[own:]:
        told = "".join(output.get("text", "") for output in cell.outputs)
        for key in checked(cell.source):
            assert f"{key}: right" in told, f"the solution of {key} isn't right: {told}"


@pytest.mark.slow
@each_notebook
def test_runs(path):
    notebook = read(path)
    committed = [bool(cell.outputs) for cell in code_cells(notebook)]
    execute(notebook)
    now = [bool(cell.outputs) for cell in code_cells(notebook)[:len(committed)]]
    assert committed == now, "committed outputs are out of date: execute it again"


@pytest.mark.slow
@each_notebook
def test_runs_with_another_photograph(path, tmp_path):
    """A grey one, in portrait, and tiny."""
    picture = Image.open(TUTORIALS / "photo.jpg").convert("L").crop((60, 20, 160, 240))
    picture.resize((15, 33)).save(tmp_path / "other.png")
    notebook = read(path)
    changed = 0
    for cell in code_cells(notebook):
        other = re.sub(r"^PHOTO = .*$", f'PHOTO = r"{tmp_path / "other.png"}"', cell.source,
                       flags=re.M)
        changed += other != cell.source
        cell.source = other
    if not changed:
        pytest.skip("needs no photograph")
    assert changed == 1
    execute(notebook)


@each_notebook
def test_committed_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "not executed from top to bottom"
    for cell in cells:
        complete = cell.outputs or not shows_something(cell.source)
        assert complete, f"no output is committed for:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            local = re.search(r"(?<![\w.])/(home|root|tmp|work|usr|Users)/|[A-Z]:\\", text)
            assert not local, f"a path of one machine: {text}"
    assert path.stat().st_size < LIMIT, f"{path.stat().st_size:,} bytes: draw smaller figures"


@each_notebook
def test_form(path):
    """Title, axis legend, self-checks, and exercises with a solution each; no framework."""
    notebook = read(path)
    text, code = markdown(notebook), "\n".join(cell.source for cell in code_cells(notebook))
    assert text.startswith("# ")
    for promise in ("**You need:**", "**Time:**", "**Axes**"):
        assert promise in text
    assert len(re.findall(r"\bassert\b|np\.testing\.|\bcheck\(", code)) >= 5
    assert not re.search(r"^\s*(import|from) (torch|timm|torchvision)\b", code, re.M)
    lines = [line for source in (code, *solutions(notebook)) for line in source.splitlines()]
    assert not [line for line in lines if len(line) > 100]
    exercises = re.findall(r"^\*\*\d\. ", section(notebook, "Exercises"), re.M)
    assert len(solutions(notebook)) == len(exercises) >= 2


@each_notebook
def test_every_question_is_asked_and_answered(path):
    """`check("3a", …)` stands in a cell of the student's, and in a solution."""
    from questions import QUESTIONS

    notebook = read(path)
    own = {key for key in QUESTIONS if re.match(r"\d+", key)[0] == path.stem[:2].lstrip("0")}
    asked = {key for cell in code_cells(notebook) for key in checked(cell.source)}
    answered = {key for block in solutions(notebook) for key in checked(block)}
    assert asked == answered == own


@each_notebook
def test_where_to_look_exists(path):
    """Every file, every npresnet name and every command in backticks."""
    quoted = re.findall(r"`([^`\n]+)`", section(read(path), "Where to look in the code"))
    commands = [name for name in quoted if name.startswith("npresnet ")]
    assert {name.split()[1] for name in commands} <= set(COMMANDS)
    quoted = [name for name in quoted if name not in commands]
    files = [name for name in quoted if re.search(r"/|\.(py|json|ipynb|safetensors)$", name)]
    names = [name for name in quoted
             if re.fullmatch(r"(npresnet|cuda_kernels)(\.\w+)+", name) and name not in files]
    assert files and names
    others = [name for name in quoted if name not in files + names]
    assert not others, "neither a file nor a name in the package"
    assert not [name for name in files if not (ROOT / name).exists()]
    for name in names:
        pkgutil.resolve_name(name)                                # raises if there is none
