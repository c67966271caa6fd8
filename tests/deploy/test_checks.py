"""The checks under .ci find what they are for."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "message",
    [
        "Add a cache of compiled loops\n\nA start compiled for 14 s.\n",
        "Address the reader\n# Changes to be committed:\n#	modified: README.md\n",
        "Merge branch 'a-branch-with-a-name-that-is-long' into another-branch-with-a-long-name",
    ],
)
def test_commit_messages_that_pass(message: str) -> None:
    assert script("check_commit_message").problems(message) == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("\n", "empty"),
        ("A" * 73, "73 characters"),
        ("Added a cache", "imperative"),
        ("Adding a cache", "imperative"),
        ("Adds a cache", "imperative"),
        ("add a cache", "capital"),
        ("Add a cache.", "full stop"),
        ("Add a cache\nof loops", "blank"),
    ],
)
def test_commit_messages_that_fail(message: str, problem: str) -> None:
    problems = script("check_commit_message").problems(message)
    assert len(problems) == 1
    assert problem in problems[0]


@pytest.mark.parametrize(
    ("file", "text", "rules"),
    [
        ("a.py", '"""What a row holds."""\n', ["docstring without a head"]),
        ("a.py", '"""Rows.\n\nWhat they hold is written here."""\n', []),
        ("a.py", "x = 1  # so many rows\n", ["translated phrase"]),
        ("a.py", "x = .5  # a literal, no prose\n", []),
        ("a.py", "x = 1  # .5 s\n", ["decimal without a zero"]),
        ("a.md", "At .98 of the hits", ["decimal without a zero"]),
        ("a.md", "`.98` and 0.98, [a link](a.2.md), version 1.2.3", []),
        ("a.md", "```sh\nsleep .5\n```\n", []),
        ("a.png", "At .98 of the hits", []),
    ],
)
def test_rules_of_prose(file: str, text: str, rules: list[str]) -> None:
    check = script("check_prose")
    assert [rule for line in check.prose(file, text) for rule in check.broken(line)] == rules


def test_the_packages_of_the_service_are_listed(tmp_path: Path) -> None:
    sbom = script("sbom")
    packages = sbom.needed("recgpt", "cpu")
    found = sbom.document(packages)
    names = {component["name"] for component in found["components"]}
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "recgpt"
    assert {"fastapi", "redis", "hiredis", "torch", "httptools"} <= names  # extras, too
    assert not {"pytest", "mypy"} & names
    assert all(
        component["purl"].endswith(component["version"]) for component in found["components"]
    )
    packages["redis"] = packages["fastapi"]
    assert any(line.startswith("redis ") for line in sbom.unpinned(packages))


ADVISORY = """
id: PYSEC-1
aliases: [CVE-1]
details: Bad.
modified: '2026-01-02T00:00:00Z'
affected:
- package: {name: Some_Package, ecosystem: PyPI}
  ranges:
  - type: ECOSYSTEM
    events: [{introduced: '0'}, {fixed: '1.2'}, {introduced: '2.0'}, {last_affected: '2.4'}]
  versions: [3.0b1]
"""


@pytest.mark.parametrize(
    ("pin", "affected"),
    [
        ("some-package==1.1", True),
        ("some.package==1.2", False),
        ("some-package==2.0+cpu", True),
        ("some-package==2.4", True),
        ("some-package==2.10", False),
        ("some-package==3.0b1", True),
        ("other==1.1", False),
    ],
)
def test_an_advisory_for_a_pinned_version_is_found(
    tmp_path: Path, pin: str, affected: bool
) -> None:
    audit = script("audit")
    (tmp_path / "PYSEC-1.yaml").write_text(ADVISORY)
    (tmp_path / "PYSEC-2.yaml").write_text(f"withdrawn: now{ADVISORY}")
    (record,) = audit.records(tmp_path)
    lines = list(audit.affects(record, audit.pins(f"# pins\n{pin}\n")))
    assert bool(lines) == affected
    assert all("PYSEC-1, CVE-1; fixed in 1.2. Bad." in line for line in lines)
