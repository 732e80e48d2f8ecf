"""Change one variable in a `.env` file: atomically, everything else byte for byte as it was."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

from dotenv.parser import parse_stream

from shared.exceptions import ConfigurationError

_BOM = "\ufeff"
# The parts of a variable's text: up to its name; its value in quotes, or else bare, with the blanks
# before it; and what follows, a comment among it.
_NAME = re.compile(r"\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=#\s]+)(?:[^\S\r\n]*=)?")
_QUOTED = re.compile(r"""([^\S\r\n]*)(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")(.*)""", re.DOTALL)
_BARE = re.compile(r"([^\S\r\n]*?)(?:\S[^\r\n]*?)?((?:[^\S\r\n]+#[^\r\n]*)?\s*)", re.DOTALL)


def check_writable(path: Path) -> None:
    """Raise ConfigurationError if `set_variable` could not write the file; it is not touched."""
    target = path.resolve()
    try:
        if target.exists():
            target.read_bytes()
        with tempfile.NamedTemporaryFile(prefix=f"{target.name}.", dir=target.parent):
            pass
    except OSError as exc:
        raise ConfigurationError(
            f"{path.name} cannot be written: {exc.strerror or exc}. Make it, and the folder that "
            "it is in, writable for the user who logs in."
        ) from exc


def set_variable(path: Path, name: str, value: str) -> None:
    """Set `name` to `value` in the file at `path`, which is made if it is not there (mode 600).

    The file's last line for `name` gets the value, or a new line at the end does. The new content
    is written beside the file and takes its place in one step: whatever fails, the file is either
    as it was or as it should be.

    Raises ConfigurationError if it cannot be written, or `value` would not be read back as it is.
    """
    target = path.resolve()  # a link stays a link
    try:
        old = target.read_bytes() if target.exists() else b""
        _replace_file(target, _with_variable(old, name, value))
    except OSError as exc:
        raise ConfigurationError(
            f"{path.name} could not be written, it is as it was: {exc.strerror or exc}."
        ) from exc


def _with_variable(content: bytes, name: str, value: str) -> bytes:
    """`content` with the variable set."""
    if not value or any(not c.isprintable() or c in "'\"\\ #$`" for c in value):
        raise ConfigurationError(f"{name}: its value has characters that {name} cannot have.")
    text = content.decode("utf-8", "surrogateescape")
    bom, text = (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)
    # The parser tells where a value of several lines ends.
    pieces = [(item.key, item.original.string) for item in parse_stream(io.StringIO(text, ""))]
    line_end = "\r\n" if "\r\n" in text else "\n"
    last = max((i for i, (key, _) in enumerate(pieces) if key == name), default=None)
    if last is None:
        separator = line_end if text and not text.endswith(("\n", "\r")) else ""
        new = f"{text}{separator}{name}={value}{line_end}"
    else:
        before, after = (
            "".join(piece for _, piece in part) for part in (pieces[:last], pieces[last + 1 :])
        )
        new = before + _with_value(pieces[last][1], value) + after
    return (bom + new).encode("utf-8", "surrogateescape")


def _with_value(binding: str, value: str) -> str:
    """The text of a variable with another value; blanks, `export`, quotes and a comment stay."""
    name = _NAME.match(binding)
    assert name is not None  # the parser found it
    before, rest = name[0], binding[name.end() :]
    if not before.endswith("="):
        before += "="
    quoted = _QUOTED.fullmatch(rest)
    if quoted is not None:
        blanks, after = quoted.groups()
        quote = rest[len(blanks)]
        return f"{before}{blanks}{quote}{value}{quote}{after}"
    bare = _BARE.fullmatch(rest)
    assert bare is not None  # it matches all that is left
    return f"{before}{bare[1]}{value}{bare[2]}"


def _replace_file(target: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp made it with mode 600
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists() and hasattr(os, "chown"):
            owner = target.stat()
            with contextlib.suppress(PermissionError):
                os.chown(temporary, owner.st_uid, owner.st_gid)
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
