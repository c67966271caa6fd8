"""Check commit messages: a subject of at most 72 characters in the imperative, then a blank line.

    .ci/check_commit_message.py FILE           as the hook `commit-msg` calls it
    .ci/check_commit_message.py --range A..B   every commit of a range

The imperative is recognised by its first word: one that ends like "Added", "Adding" or "Adds" is
rejected. Exits with 1 if a message breaks a rule.
"""

import re
import subprocess
import sys
from pathlib import Path

MAX_SUBJECT = 72
NOT_IMPERATIVE = re.compile(r"\w+(ed|ing|[^su]s)")
IMPERATIVE = {"Alias", "Bring", "Embed", "Feed", "Need", "Proceed", "Seed", "Speed"}
"""Imperatives that look like another form."""


def problems(message: str) -> list[str]:
    """The rules that a commit message breaks, each as one sentence."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = lines[0] if lines else ""
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return []
    found = []
    if not subject or subject != subject.strip():
        found.append("the subject is empty or has spaces around it")
    if len(subject) > MAX_SUBJECT:
        found.append(f"the subject has {len(subject)} characters, more than {MAX_SUBJECT}")
    first = re.split(r"\W", subject, maxsplit=1)[0]
    if first[:1].islower():
        found.append("the subject does not begin with a capital letter")
    if NOT_IMPERATIVE.fullmatch(first) and first not in IMPERATIVE:
        found.append(f'the subject begins with "{first}", not with an imperative ("Add", "Fix")')
    if subject.endswith("."):
        found.append("the subject ends with a full stop")
    if len(lines) > 1 and lines[1]:
        found.append("the second line is not blank")
    return found


def messages(words: list[str]) -> dict[str, str]:
    """The messages to check, by a name to show beside their problems."""
    if words[0] != "--range":
        return {words[0]: Path(words[0]).read_text(encoding="utf-8")}
    log = ["git", "log", "-z", "--format=%h%n%B", words[1]]
    entries = subprocess.run(log, check=True, capture_output=True, text=True).stdout.split("\0")
    return dict(entry.split("\n", 1) for entry in entries if entry)


def main() -> int:
    """Prints each broken rule; returns the exit code."""
    broken = [
        f"{name}: {problem}\n    {message.splitlines()[0] if message else ''}"
        for name, message in messages(sys.argv[1:]).items()
        for problem in problems(message)
    ]
    print("\n".join(broken), end="\n" if broken else "")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
