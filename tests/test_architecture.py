"""The structure of the code: the order of its rooms, and practices that are forbidden."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "index", "model", "service")
OURS = {*PACKAGES, "loadtest", "tests"}

ROOMS = (
    "model.device",
    "model.files",
    "model.ids",
    "model.kinds",
    "model.tensor_files",
    "model.libraries",
    "model.network",
    "model.data",
    "model.evaluation",
    "model.artifact",
    "model.training",
    "model.reports",
    "index.kernels",
    "index.ivf",
    "index.exact",
    "index.formats",
    "index.benchmark",
    "index.selection",
    "index.search",
    "index.crossover",
    "index.build",
    "service.settings",
    "service.errors",
    "service.recall",
    "service.history",
    "service.experiments",
    "service.observability",
    "service.catalogue",
    "service.offline",
    "service.refresh",
    "service.precompile",
    "service.admission",
    "service.waiting",
    "service.batcher",
    "service.explorer",
    "service.http",
    "service.processes",
    "service.server",
    "service.doctor",
    "cli",
)
"""From the bottom up. A room is a folder, or a file beside the folders of its package. It imports
from itself and from the rooms before it. `model` and `index` do not import each other: they meet at
files."""

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LOAD_TESTS = sorted((ROOT / "loadtest").rglob("*.py"))


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str | None:
    """The last room that the dotted name lies in; None for a package as such."""
    return next((r for r in reversed(ROOMS) if f"{module}.".startswith(f"{r}.")), None)


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields the full names of all imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> list[str]:
    return [name for name in imports(parse(path)) if name.split(".")[0] in OURS]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_every_file_lies_in_a_room_and_no_room_is_empty() -> None:
    found = {room_of(named(path)) for path in SOURCES if path.stem != "__init__"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_go_down(path: Path) -> None:
    if path.stem == "__init__":
        return
    room = room_of(named(path))
    assert room
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    package = room.split(".")[0]
    if package in ("index", "model"):
        allowed = {other for other in allowed if other.startswith(package)}
    assert not [name for name in ours(path) if room_of(name) not in allowed]


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {named(path) for path in SOURCES}
    waiting = {}
    for path in SOURCES:
        names = ours(path)
        waiting[named(path)] = {*names, *(name.rpartition(".")[0] for name in names)} & modules
    while free := {module for module, needs in waiting.items() if not needs - {module}}:
        waiting = {m: needs - free for m, needs in waiting.items() if m not in free}
    assert not waiting


def test_locust_knows_nothing_but_http() -> None:
    assert not ours(ROOT / "loadtest" / "locustfile.py")


def test_nothing_imports_the_command_line() -> None:
    outside = [path for path in (*SOURCES, *LOAD_TESTS) if not named(path).startswith("cli")]
    assert not [path for path in outside for name in ours(path) if name.split(".")[0] == "cli"]


def test_package_files_are_empty() -> None:
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").exists()
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_bytes() == b""


@pytest.mark.parametrize("path", [*SOURCES, *LOAD_TESTS], ids=named)
def test_no_pickle(path: Path) -> None:
    """No pickle by any of its names, because it runs code when it is read."""
    tree = parse(path)
    roots = {name.split(".")[0] for name in imports(tree)}
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & roots
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        assert ast.unparse(call.func) not in ("torch.load", "torch.save"), f"line {call.lineno}"
        allowed = {k.arg: ast.unparse(k.value) for k in call.keywords}.get("allow_pickle", "False")
        assert allowed == "False", f"line {call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_files_stay_readable(path: Path) -> None:
    """A file of more than 400 lines does more than one thing."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
