"""The documents agree with the code: commands, make targets, links and paths that they name."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from documented import shell_commands

from cli.config import parse
from cli.main import COMMANDS, command_class
from loadtest.readme_table import BEGIN, END, table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
HISTORY = ROOT / "CHANGELOG.md"
"""Names what has gone, too."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def make_targets() -> dict[str, str]:
    """Targets for people, and what `make help` says of them."""
    found = re.findall(r"^([a-z0-9-]+):.*?## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return dict(found)


def test_make_help_lists_every_target_for_people() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(phony[1].split()) - {"redis"} == set(make_targets())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    said = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.returncode == 0
    for target in make_targets():
        assert f"make {target} " in said.stdout


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / ".ci/run", ROOT / ".github/workflows/checks.yml"], ids=name_of
)
def test_named_make_targets_exist(page: Path) -> None:
    named = set(re.findall(r"(?:^|`|run:? )make ([a-z0-9-]+)\b", page.read_text(), re.MULTILINE))
    assert named <= set(make_targets())
    if page.name in ("README.md", "run", "checks.yml"):
        assert named


def test_workflow_and_ci_script_take_the_same_steps() -> None:
    script, workflow = (ROOT / ".ci/run").read_text(), (ROOT / ".github/workflows/checks.yml")
    steps = set(re.findall(r"run make ([a-z0-9-]+)", script))
    assert steps == set(re.findall(r"run: make ([a-z0-9-]+)", workflow.read_text())) - {"setup"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_what_the_command_line_takes(page: Path) -> None:
    for command in shell_commands(page.read_text(encoding="utf-8")):
        words = shlex.split(command, comments=True)
        if Path(words[0]).name != "recgpt":
            continue
        fitting = [name for name in COMMANDS if words[1 : 1 + len(name.split())] == name.split()]
        assert fitting, words
        name = max(fitting, key=len)
        parse(command_class(name), name, words[1 + len(name.split()) :])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=name_of)
def test_named_files_exist(page: Path) -> None:
    folders = "cli|deploy|docs|index|loadtest|model|service|tests"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_tree_in_readme_is_the_tree_on_disk() -> None:
    """A phrase for each folder, but for those below tests/ and deploy/ and hidden ones."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"## The tree\n\n```\n(.*?)```", text, re.DOTALL)
    shown: list[str] = []
    above: list[str] = []
    for indent, name, phrase in re.findall(r"^( *)(\S+/)(.*)$", block, re.MULTILINE):
        assert phrase.strip(), f"{name} has no phrase"
        above = [*above[: len(indent) // 2], name]
        shown.append("".join(above).rstrip("/"))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    folders = {
        str(folder)
        for file in listed.stdout.splitlines()
        for folder in Path(file).parents
        if folder.parts and not folder.parts[0].startswith(".")
    }
    assert sorted(shown) == sorted(f for f in folders if not re.match("(tests|deploy)/", f))


def test_readme_stays_short_and_its_table_is_written_from_the_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert f"{BEGIN}\n{table()}\n{END}" in text
