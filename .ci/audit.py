"""Compare the pinned versions with a folder of advisories, without a network.

    .ci/audit.py build/advisory-database

The folder holds records in the OSV format (https://ossf.github.io/osv-schema), YAML or JSON, such
as a clone of https://github.com/pypa/advisory-database. Prints each advisory that affects a version
of constraints.txt, and how recent the newest record is. Exits with 1 if there is one.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent


def pins(text: str) -> dict[str, str]:
    """Returns the pinned versions by the packages' canonical names."""
    found = re.findall(r"(?m)^([\w.-]+)==([\w.!+]+)", text)
    return {str(canonicalize_name(name)): version.partition("+")[0] for name, version in found}


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the advisories of a folder that were not withdrawn."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.suffix not in (".yaml", ".json"):
            continue
        text = file.read_text(encoding="utf-8")
        loaded = json.loads(text) if file.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
        if isinstance(loaded, dict) and "affected" in loaded and not loaded.get("withdrawn"):
            yield loaded


def affects(record: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    """Yields a line for each pinned package that an advisory affects."""
    for affected in record["affected"]:
        package = affected.get("package", {})
        name = str(canonicalize_name(package.get("name", "")))
        version = versions.get(name)
        if package.get("ecosystem") != "PyPI" or not version:
            continue
        ranges = [r["events"] for r in affected.get("ranges", ()) if r["type"] == "ECOSYSTEM"]
        if version in affected.get("versions", ()) or any(within(version, r) for r in ranges):
            fixed = [event["fixed"] for events in ranges for event in events if "fixed" in event]
            names = ", ".join([record["id"], *record.get("aliases", ())])
            text = (record.get("summary") or record.get("details") or "").split("\n")[0]
            repair = f"fixed in {', '.join(fixed)}" if fixed else "no version has a repair"
            yield f"{name} {version}: {names}; {repair}. {text}"


def within(version: str, events: list[dict[str, str]]) -> bool:
    """Returns whether a version lies in a range, whose events are in order."""
    inside = False
    try:
        mine = Version(version)
        for event in events:
            if "introduced" in event:
                inside |= event["introduced"] == "0" or mine >= Version(event["introduced"])
            elif "fixed" in event:
                inside &= mine < Version(event["fixed"])
            elif "last_affected" in event:
                inside &= mine <= Version(event["last_affected"])
    except InvalidVersion:  # of before PEP 440: the list of versions counts
        return False
    return inside


def main() -> None:
    """Prints what affects the pinned versions."""
    versions = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    found, count, newest = list[str](), 0, ""
    for record in records(Path(sys.argv[1])):
        count += 1
        newest = max(newest, str(record.get("modified", ""))[:10])
        found += affects(record, versions)
    if not count:
        sys.exit(f"{sys.argv[1]} holds no records in the OSV format")
    print(f"{len(versions)} pinned versions, {count:,} advisories, the newest of {newest}")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
