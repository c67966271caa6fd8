"""The shape of the code: who imports whom, and what nobody does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("model", "index", "service")
OURS = {"model", "index", "service", "cli", "command", "loadtest", "tests"}
ALLOWED = {
    "model": {"model"},
    "index": {"index"},
    "service": {"service", "model", "index"},
    "loadtest/locustfile.py": set(),
    "cli.py": {"model", "index", "service", "command"},
    "command.py": set(),
}

LOAD_TESTS = sorted((ROOT / "loadtest").rglob("*.py"))
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SOURCES += [*sorted(ROOT.glob("*.py")), *LOAD_TESTS]


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of the imported modules, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module
            yield node.module


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_there_is_code_to_look_at() -> None:
    for package in PACKAGES:
        assert [path for path in SOURCES if path.is_relative_to(ROOT / package)]


@pytest.mark.parametrize("where", ALLOWED)
def test_import_rules(where: str) -> None:
    files = [path for path in SOURCES if path.is_relative_to(ROOT / where)]
    assert files
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        for name in imports(parse(path))
        if name.split(".")[0] in OURS - ALLOWED[where]
    }
    assert not found, f"{where} must not import these"


def test_nothing_imports_the_command_line() -> None:
    found = [path.name for path in SOURCES if "cli" in set(imports(parse(path)))]
    assert not found


def test_package_files_are_empty() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_bytes() == b""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle(path: Path) -> None:
    """Nothing that is loaded may run code: no pickle by any of its names."""
    tree = parse(path)
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & set(imports(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        assert ast.unparse(call.func) not in ("torch.load", "torch.save"), f"line {call.lineno}"
        allowed = {k.arg: ast.unparse(k.value) for k in call.keywords}.get("allow_pickle", "False")
        assert allowed == "False", f"line {call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    """House style: a file that needs more than 250 lines does more than one thing."""
    if path.relative_to(ROOT).parts[0] in PACKAGES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
