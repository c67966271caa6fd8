"""Write the packages that the service runs on as a CycloneDX document.

    .ci/sbom.py build/sbom.json

It lists the project and all packages that it needs, directly or not, as they are installed:
versions, licences and package URLs. Nothing is downloaded. Exits with 1 if a version differs from
its pin in constraints.txt.
"""

import json
import re
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "recgpt"
EXTRA = "cpu"


def needed(name: str, extra: str = "") -> dict[str, Distribution]:
    """Returns the installed packages that a package needs, by name, itself included."""
    found: dict[str, Distribution] = {}
    wanted = [(canonicalize_name(name), extra)]
    seen = set()
    while wanted:
        one = wanted.pop()
        if one in seen:
            continue
        seen.add(one)
        found[one[0]] = package = distribution(one[0])
        for text in package.requires or ():
            requirement = Requirement(text)
            if not requirement.marker or requirement.marker.evaluate({"extra": one[1]}):
                other = canonicalize_name(requirement.name)
                wanted += [(other, part) for part in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def component(package: Distribution) -> dict[str, Any]:
    """Returns a package as CycloneDX describes it."""
    about: Any = package.metadata
    name = canonicalize_name(about["Name"])
    purl = f"pkg:pypi/{name}@{package.version}"
    found: dict[str, Any] = {
        "type": "application" if name == PROJECT else "library",
        "bom-ref": purl,
        "name": name,
        "version": package.version,
        "purl": purl,
    }
    if licence := about.get("License-Expression"):
        found["licenses"] = [{"expression": licence}]
    elif licence := licence_name(about.get_all("Classifier") or [], about.get("License") or ""):
        found["licenses"] = [{"license": {"name": licence}}]
    return found


def licence_name(classifiers: list[str], text: str) -> str:
    """Returns the licence by its classifier, or by its text if that is one line."""
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    return ", ".join(names) or (text if "\n" not in text else "")


def document(packages: dict[str, Distribution]) -> dict[str, Any]:
    """Returns the CycloneDX document, with the project as its subject."""
    components = {name: component(package) for name, package in packages.items()}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": components.pop(PROJECT)},
        "components": list(components.values()),
    }


def unpinned(packages: dict[str, Distribution]) -> list[str]:
    """Returns a line for each package whose version is not the one of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {str(canonicalize_name(n)): v for n, v in re.findall(r"(?m)^([\w.-]+)==([\w.!]+)", text)}
    return [
        f"{name} {package.version} is not pinned: constraints.txt has {pins.get(str(name))}"
        for name, package in packages.items()
        if name != PROJECT and package.version.partition("+")[0] != pins.get(str(name))
    ]


def main() -> None:
    """Writes the document, and says what is not pinned."""
    packages = needed(PROJECT, EXTRA)
    to = Path(sys.argv[1])
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(document(packages), indent=2) + "\n", encoding="utf-8")
    print(f"{len(packages)} packages in {to}")
    if wrong := unpinned(packages):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
