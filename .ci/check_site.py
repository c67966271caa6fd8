"""Check the built documentation without a network: its links lead somewhere, and no page loads
anything from another host.

    .ci/check_site.py build/site

Links to other hosts are allowed in the text, because a reader follows them on purpose. Exits with 1
if a check fails.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED_BY = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
IMPORTED = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class Page(HTMLParser):
    """The ids of a page, the links that it offers, and the addresses that it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collects what the tag refers to."""
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if (tag, name) in LOADED_BY and value:
                self.loads.append(value)
            if tag == "a" and name == "href" and value:
                self.links.append(value)


def problems(site: Path) -> list[str]:
    """Each broken link and each foreign address, with the page it is on."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name} loads {url}" for url in page.loads if urlsplit(url).netloc]
        for url in (*page.links, *page.loads):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{name} links to {url}, which does not exist")
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].ids}:
                found.append(f"{name} links to {url}, which has no such heading")
    for style in sorted(site.rglob("*.css")):
        for url in IMPORTED.findall(style.read_text(encoding="utf-8")):
            found.append(f"{style.relative_to(site)} loads {url}")
    return found


def main() -> int:
    """Prints the problems; returns the exit code."""
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").is_file():
        print(f"{site} holds no site: `make docs` builds it")
        return 1
    found = problems(site)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
