"""Text of others in what this project prints and logs (ruling 35).

The API's and the database's words, the list's fields and the names of files may hold anything.
Shown as they are, they could steer a terminal, or look like a line of this program's own.
"""

from __future__ import annotations

import re

# Letters and marks by their kind, but nothing is seen of them.
_UNSEEN = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0"
    r"\U000e0100-\U000e01ef]"
)
_FURTHER_LINE = re.compile(r"(?<=[^\n])(\n+)(?=[^\n])")


def escape(text: str) -> str:
    """`text` with all that is not seen as it is, but for line feeds, as Python would write it.

    These are control characters (ESC, carriage return, C1), separators of lines, marks of direction
    and of no width, odd blanks, and bytes that are no UTF-8.
    """
    return "".join(c if c == "\n" or _is_seen(c) else ascii(c)[1:-1] for c in text)


def escape_line(text: str) -> str:
    """`text` on one line: line feeds are escaped, too."""
    return escape(text).replace("\n", r"\n")


def shorten(value: object, width: int = 40) -> str:
    """`value` in quotes, cut to `width` characters, fit for a message."""
    text = str(value)
    return repr(text if len(text) <= width else text[: width - 3] + "...")


def indent_further_lines(text: str) -> str:
    """`text` whose lines after the first begin with blanks: only a message begins a line.

    Empty lines before and after it stay.
    """
    return _FURTHER_LINE.sub(r"\1  ", text)


def _is_seen(character: str) -> bool:
    return character.isprintable() and not _UNSEEN.match(character)
