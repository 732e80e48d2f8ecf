"""The version of a table or a view: the last line of its comment, which pg_dump keeps, says it.

What a table lacks is told by its columns, since a comment may be lost. The version tells that a
newer program made it, and whether a view is as this program's script has it.
"""

import re

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

_WORDS = "Made by stock_ingestion, version "
# Before versions had numbers, that of a view was the hash of its statement.
_MARK = re.compile(rf"(?:\A|\n){_WORDS}(?:(\d{{1,6}})( \w+)?|\w{{12}})\Z")
_VERSION = re.compile(r"^-- version (\d+)$", re.M)


def read_version(comment: str) -> int | None:
    """The version that a comment says; 0 if it had no number yet, None if it says none."""
    found = _MARK.search(comment)
    return int(found[1] or 0) if found else None


def is_of(comment: str, version: int, fingerprint: str = "") -> bool:
    """Whether a comment says this version, with this fingerprint of what the version is."""
    found = _MARK.search(comment)
    return found is not None and found[0].lstrip("\n") == _say(version, fingerprint)


def write_version(
    cursor: Cursor, kind: str, name: str, comment: str, version: int, fingerprint: str = ""
) -> str:
    """The statement, in one line, that puts the version behind a user's words in a comment."""
    lines = filter(None, (_MARK.sub("", comment), _say(version, fingerprint)))
    words = sql.Literal("\n".join(lines)).as_string(cursor).strip()
    if "\n" in words:
        plain = words.removeprefix("E")
        escaped = plain.replace("\\", "\\\\") if plain == words else plain
        words = "E" + escaped.replace("\n", "\\n")
    return f"COMMENT ON {kind} {name} IS {words}"


def version_of(script: str) -> int:
    """What the line `-- version 2` of a script says; 1 without one."""
    return max(map(int, _VERSION.findall(script)), default=1)


def describe_newer(found: int | None, version: int) -> str:
    """The two versions in words, if the one that was found is newer; else ""."""
    return f"version {found}, here {version}" if (found or 0) > version else ""


def _say(version: int, fingerprint: str) -> str:
    return f"{_WORDS}{version} {fingerprint}".rstrip()
