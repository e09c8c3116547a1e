"""Who may import whom: the data flows one way, and no arrow points back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bvtdeploy"

# What the modules of a part may import of this package; errors.py is everybody's. `ir` and `ops` are the vocabulary.
ALLOWED = {
    "ir": {"ir", "ops"},
    "ops": {"ops", "ir"},
    "frontend": {"frontend", "ir", "ops", "models"},
    "models": {"models"},
    "passes": {"passes", "ir", "ops"},
    "lower": {"lower", "ir", "ops", "artifact.spec"},
    "artifact": {"artifact", "lower", "ir", "ops"},
    "compiler": {"frontend", "ir", "ops", "passes", "lower", "artifact"},
    "verifier": {"verifier", "compiler", "frontend", "models", "ir", "ops", "passes", "lower", "artifact", "host", "device"},
}
CORE = ("ir", "ops", "frontend", "models", "passes", "lower", "artifact", "compiler")
BACK = {"build", "device", "profile", "host", "boards", "cli", "api", "console"}


def modules(part: str) -> list[Path]:
    file = PACKAGE / f"{part}.py"
    return [file] if file.exists() else sorted((PACKAGE / part).rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[str, bool]]:
    """(module under bvtdeploy or other package, stands inside a function) of every import of a file."""
    tree = ast.parse(file.read_text())
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in inside


def ours(file: Path) -> Iterator[tuple[str, bool]]:
    for name, inside in imported(file):
        if name.split(".")[0] == "bvtdeploy":
            yield name.removeprefix("bvtdeploy").removeprefix("."), inside


def allowed(name: str, choices: set[str]) -> bool:
    return any(name == c or name.startswith(c + ".") for c in choices | {"errors"})


@pytest.mark.parametrize("part", ALLOWED)
def test_one_way(part: str) -> None:
    assert modules(part)
    wrong = [
        f"{file.relative_to(PACKAGE)}: {name}"
        for file in modules(part)
        for name, _ in ours(file)
        if not allowed(name, ALLOWED[part])
    ]
    assert not wrong


@pytest.mark.parametrize("part", CORE)
def test_the_core_knows_nothing_of_what_uses_it(part: str) -> None:
    assert not {name.split(".")[0] for file in modules(part) for name, _ in ours(file)} & BACK


def test_ir_knows_the_ops_only_inside_functions() -> None:
    assert all(inside for file in modules("ir") for name, inside in ours(file) if name.startswith("ops"))


def test_torch_is_loaded_only_where_it_is_needed() -> None:
    """Running, profiling and inspecting an artifact needs no torch: only front end and models import it at module level."""
    users = {
        f.relative_to(PACKAGE).parts[0]
        for f in PACKAGE.rglob("*.py")
        for n, inside in imported(f)
        if n.split(".")[0] == "torch" and not inside
    }
    assert users <= {"frontend", "models"}


def test_only_the_console_knows_rich_and_only_the_command_line_knows_the_console() -> None:
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        for module, _ in imported(file):
            if module.split(".")[0] == "rich":
                assert name == "console.py", f"{name} imports {module}"
            if module.startswith("bvtdeploy.console"):
                assert name.split("/")[0] in FRONT, f"{name} imports the console"


# The command line and what it consists of.
FRONT = {"cli", "console.py", "__main__.py", "views", "demo.py"}


def test_the_library_prints_nothing() -> None:
    """The library returns typed results and prints nothing; spec.py prints the C header when it is run as a program."""
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).as_posix()
        calls = [
            n
            for n in ast.walk(ast.parse(file.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"
        ]
        assert not calls or name.split("/")[0] in FRONT or name == "artifact/spec.py", f"{name} prints"


def test_every_op_has_a_file_in_the_runtime() -> None:
    """One C file an opcode: an op that the compiler emits and the runtime lacks would only show on the board."""
    from bvtdeploy.artifact.spec import OPCODES

    sources = (PACKAGE.parent / "runtime_arm" / "sources.txt").read_text()
    assert [kind for kind in OPCODES if f"src/ops/{kind}.c" not in sources] == []
