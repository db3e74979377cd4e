"""The rules of the house: who may import whom, where frameworks may be imported, and sizes."""
from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a file imports from its own floor or from those below it.
FLOORS = [["errors", "table", "version", "ahead", "columns", "_pyinstaller"], ["ops"], ["variants"],
          ["graph", "network"], ["tensor_files"], ["weights"], ["lower"], ["backend"],
          ["fast", "reference"], ["sources"], ["images"], ["labels", "data", "demo"], ["hub"],
          ["loading"], ["summary", "instruments.comparison", "instruments.accuracy"], ["held"],
          ["model"], ["predict", "explain", "explorer"], ["sklearn"],
          ["instruments.parity", "instruments.contenders"], ["instruments.bench"],
          ["instruments.roofline"], ["commands"], ["cli"]]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
FRAMEWORKS = {"torch", "timm", "torchvision", "onnxruntime", "openvino"}
# Kernels are laid out by issues of their own; the rest is to be read in one sitting.
LONGER = {"cuda_kernels/conv2d.py", "npresnet/fast/plan.py"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, with_types: bool = False) -> Iterator[tuple[str, ast.AST]]:
    """The full name of everything that a file imports, lazily or not; for types alone if asked."""
    package = [*path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {id(node) for block in ast.walk(tree) for node in ast.walk(block)
                 if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"}
    for node in ast.walk(tree):
        if id(node) in for_types and not with_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*module, alias.name]), node) for alias in node.names)


def place(name: str) -> str | None:
    """Which of FLOORS something of npresnet belongs to, by its full name."""
    parts = name.split(".")
    if parts[0] != "npresnet" or len(parts) < 2:
        return None
    two = ".".join(parts[1:3])
    return two if two in FLOOR else parts[1] if parts[1] in FLOOR else None


def test_imports_point_one_way():
    """Operations know nothing of models, models nothing of commands; there are no circles."""
    placed = set()
    for path in sources("npresnet"):
        own = place(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own is None:
            assert path.name in ("__init__.py", "__main__.py"), f"{path.name} has no floor"
            continue
        placed.add(own)
        for name, node in imports(path):
            used = place(name)
            allowed = used is None or used == own or FLOOR[used] < FLOOR[own]
            assert allowed, f"{path}, line {node.lineno}: {own} imports {name}"
    assert placed == set(FLOOR), f"no such files: {set(FLOOR) - placed}"


@pytest.mark.slow
def test_the_two_engines_know_nothing_of_each_other():
    for path in sources("cuda_kernels"):
        for name, _ in imports(path, with_types=True):
            assert not name.startswith("npresnet.fast"), f"{path} imports {name}"
            used = place(name)
            assert used is None or FLOOR[used] <= FLOOR["backend"], f"{path} imports {name}"
    for path in sources("npresnet"):
        for name, _ in imports(path, with_types=True):
            assert not name.startswith("cuda_kernels"), f"{path} imports {name}"


@pytest.mark.slow
def test_frameworks_are_imported_by_two_instruments_when_asked():
    """In parity.py and contenders.py, inside functions; nowhere else, and not in disguise."""
    instruments = ROOT / "npresnet" / "instruments"
    users = set()
    for path in [*sources("npresnet"), *sources("cuda_kernels")]:
        tree = ast.parse(path.read_text("utf-8"))
        lazy = {node.lineno for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
                for node in ast.walk(function) if hasattr(node, "lineno")}
        for name, node in imports(path, with_types=True):
            if name.split(".")[0] in FRAMEWORKS:
                assert node.lineno in lazy, f"{path}, line {node.lineno}: imported with the file"
                users.add(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                named = {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
                assert not named & FRAMEWORKS, f"{path}, line {node.lineno}: in disguise"
    assert users == {instruments / "parity.py", instruments / "contenders.py"}


def test_a_file_can_be_read_in_one_sitting():
    longest = {}
    for package in ("npresnet", "cuda_kernels", "tests"):
        for path in sources(package):
            lines = path.read_text("utf-8").count("\n")
            longest[str(path.relative_to(ROOT))] = lines
    worst = sorted(longest, key=longest.__getitem__)[-5:]
    print({name: longest[name] for name in worst})
    assert {name for name, lines in longest.items() if lines > 320} <= LONGER


def test_only_the_table_of_backends_and_its_own_messages_name_backends():
    """What a backend can do is asked of the table, never of its name."""
    for path in sources("npresnet"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                texts = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                compared = "backend" in ast.unparse(node) and texts & {"numpy", "numba", "cuda"}
                assert not compared, f"{path}, line {node.lineno}: {ast.unparse(node)}"
