"""The walk of one request names files and functions that exist, and few enough to read."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WALK = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
STEP = re.compile(r"^\d+\. \*\*(.*?)\*\*", re.MULTILINE | re.DOTALL)


def test_the_walk_has_at_most_20_files_and_names_what_they_define() -> None:
    steps = STEP.findall(WALK)
    assert 10 < len(steps) <= 20
    for step in steps:
        path, *names = re.findall(r"`(.*?)`", step)
        assert names
        source = (ROOT / path).read_text(encoding="utf-8")
        for part in {part for name in names for part in name.split(".")}:
            assert re.search(rf"\b(class|def) {part}\b", source), f"{path}: {part}"


def test_every_path_of_the_walk_exists() -> None:
    paths = re.findall(r"`(\w+/[\w/]*(?:\.py)?)`", WALK)
    assert len(paths) > 20
    assert not [path for path in paths if not (ROOT / path).exists()]
