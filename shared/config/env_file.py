"""Change one variable in a `.env` file: atomically, everything else byte for byte as it was."""

import io
import os
import re
import stat
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from dotenv.parser import parse_stream

from shared.exceptions import ConfigurationError

_ROOM_BYTES = 4096  # for a variable that is new, or longer than before
# A variable's text: its name; blanks and a value in quotes, and what follows; or blanks and a bare
# value, and the comment or the blanks that follow.
_BINDING = re.compile(
    r"""(\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=#\s]+)(?:[^\S\r\n]*=)?)(?:"""
    r"""([^\S\r\n]*)(['"])(?:\\.|(?!\3).)*\3(.*)|"""
    r"""([^\S\r\n]*?)(?:\S[^\r\n]*?)?((?:[^\S\r\n]+#[^\r\n]*)?\s*))""",
    re.DOTALL,
)


@contextmanager
def reserved(path: Path) -> Iterator[Callable[[str, str], None]]:
    """A function that sets a variable (its name, its value), for which all is prepared.

    Room for a copy, with the file's owner and rights, is taken before the body begins: no token is
    asked for that could not be kept. The function may be called once: the last line for the name
    gets the value, or a new line does, and the copy replaces the file in one step.
    Both raise ConfigurationError if the file cannot be written, or the value cannot be in it.
    """
    target = path.resolve()  # a link stays a link
    with ExitStack() as clean_up:
        with _explained(path):
            room = len(_read(target)) + _ROOM_BYTES
            descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
            unfinished = Path(name)
            clean_up.callback(unfinished.unlink, missing_ok=True)
            with os.fdopen(descriptor, "wb") as file:  # mkstemp made it with mode 600
                _take_over_owner(file.fileno(), target, path.name)
                _write(file, bytes(room))

        def set_variable(name: str, value: str) -> None:
            with _explained(path), unfinished.open("r+b") as file:  # in the room that it has
                _write(file, _with_variable(_read(target), name, value))
                unfinished.replace(target)

        yield set_variable


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfigurationError(
            f"{path.name} cannot be written: {exc.strerror or exc}. It is as it was. Its disk "
            "needs room for a second copy, and the user who logs in must be able to write it and "
            "the folder that it is in."
        ) from exc


def _read(target: Path) -> bytes:
    return target.read_bytes() if target.exists() else b""


def _take_over_owner(descriptor: int, target: Path, shown: str) -> None:
    """Give the open file `target`'s owner, group and mode; one that all could read becomes private.

    Where it is missing, root makes it for the owner of its folder. Raises ConfigurationError if
    this user may not give files away.
    """
    is_there = target.exists()
    model = (target if is_there else target.parent).stat()
    mode = stat.S_IMODE(model.st_mode)
    is_shared = is_there and bool(mode & stat.S_IRWXG) and not mode & stat.S_IRWXO
    try:
        os.fchown(descriptor, model.st_uid, model.st_gid)
    except PermissionError as exc:
        if is_there and (is_shared or model.st_uid != os.geteuid()):
            raise ConfigurationError(
                f"{shown} belongs to uid {model.st_uid}, gid {model.st_gid}, who could not read it "
                "any more if this user wrote it. It is as it was. Run this as its owner or as root."
            ) from exc
    if is_shared:
        os.fchmod(descriptor, mode)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    file.truncate()
    os.fsync(file.fileno())


def _with_variable(content: bytes, name: str, value: str) -> bytes:
    if not value or any(not c.isprintable() or c in "'\"\\ #$`" for c in value):
        raise ConfigurationError(f"{name}: its value has characters that {name} cannot have.")
    bom = content[:3] if content.startswith(BOM_UTF8) else b""
    text = content.removeprefix(bom).decode("utf-8", "surrogateescape")
    # The parser tells where a value of several lines ends.
    pieces = list(parse_stream(io.StringIO(text, "")))
    lines = [piece.original.string for piece in pieces]
    places = [place for place, piece in enumerate(pieces) if piece.key == name]
    if places:
        lines[places[-1]] = _with_value(lines[places[-1]], value)
    else:
        line_end = "\r\n" if "\r\n" in text else "\n"
        lines.append("" if not text or text.endswith(("\n", "\r")) else line_end)
        lines.append(f"{name}={value}{line_end}")
    return bom + "".join(lines).encode("utf-8", "surrogateescape")


def _with_value(binding: str, value: str) -> str:
    """The text of a variable with another value; blanks, `export`, quotes and a comment stay."""
    match = _BINDING.fullmatch(binding)
    assert match is not None  # the parser found it
    name, quoted_blanks, quote, after_quotes, blanks, after = match.groups(default="")
    before = name if name.endswith("=") else f"{name}="
    return f"{before}{quoted_blanks}{blanks}{quote}{value}{quote}{after_quotes}{after}"
