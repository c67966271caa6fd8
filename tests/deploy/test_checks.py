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
