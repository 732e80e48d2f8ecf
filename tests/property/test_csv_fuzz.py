"""A fuzzer over the CSV reader: 10,000 mutated dumps, each made from its number.

Whatever a dump has become, every line of it is a row or a reject, an untouched line is exactly the
row that was written, and nothing but an error of the project's own comes out.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.exceptions import StockIngestionError
from shared.feed import Batch
from shared.utils.kite_csv import parse_dump
from tests.instruments import KITE_COLUMNS, instrument
from tests.property.strategies import Rendering

DUMPS = 10_000
# Numbers of dumps that found a fault once, tried first.
KEPT_SEEDS: tuple[int, ...] = ()

LINE_END = re.compile(rb"\r\n|\n|\r")
NAMES = (
    "INFOSYS",
    "M&M FIN. SERVICES, LTD",
    'THE "BEST", CO',
    "ÉCLAIR 😀",
    "A B ",
    " C",
    None,
    "'",
)
INSERTS = (
    b'"',
    b'""',
    b"\0",
    b"\n",
    b"\r",
    b"\r\n",
    b",",
    b", ",
    b'","',
    b"\xff",
    b"\xc3",
    b"\x1c",
)
JUNK = (b"", b" ", b",", b'"', b"\xef\xbb\xbf", b"<html>", b'{"status": "error"}', b"-" * 131_100)


@dataclass
class Piece:
    """A part of the dump: a line with its end, or what a mutation has made of it.

    `row` is what the line means, as long as it is untouched; the header's is empty.
    """

    content: bytes
    row: dict[str, Any] | None

    def touch(self, content: bytes) -> None:
        self.content, self.row = content, None


Pieces = list[Piece]
Mutation = Callable[[random.Random, Pieces], None]


def make_dump(rng: random.Random) -> Pieces:
    rendering = Rendering(
        line_end=rng.choice(["\n", "\r\n"]),
        space_after_comma=rng.random() < 0.1,
        quote_all=rng.random() < 0.1,
    )
    rows = [make_row(rng, token) for token in rng.sample(range(1, 10**9), rng.randint(1, 8))]
    lines = rendering.write(rows).splitlines(keepends=True)
    assert len(lines) == len(rows) + 1
    return [Piece(line, row) for line, row in zip(lines, [{}, *rows])]


def make_row(rng: random.Random, token: int) -> dict[str, Any]:
    expiry = date(2026, 1, 1) + timedelta(days=rng.randrange(2000))
    return instrument(
        token,
        f"SYM{rng.choice(['', ' ', '&', '-'])}{token}",
        rng.choice(["NSE", "NFO", "BSE"]),
        name=rng.choice(NAMES),
        expiry=rng.choice([None, expiry]),
        strike=rng.choice([None, Decimal(rng.randrange(10**6)).scaleb(-rng.randrange(5))]),
        lot_size=rng.choice([None, 0, 1, 2025]),
    )


def pick(rng: random.Random, pieces: Pieces) -> Piece:
    """A piece to harm; the header, which ends it all, now and then only."""
    return rng.choice(pieces if rng.random() < 0.05 or len(pieces) == 1 else pieces[1:])


def flip_bits(rng: random.Random, pieces: Pieces) -> None:
    piece = pick(rng, pieces)
    content = bytearray(piece.content)
    for _ in range(rng.choice([1, 1, 1, 5])):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    piece.touch(bytes(content))


def insert(rng: random.Random, pieces: Pieces) -> None:
    piece = pick(rng, pieces)
    at = rng.randint(0, len(piece.content))
    piece.touch(piece.content[:at] + rng.choice(INSERTS) + piece.content[at:])


def delete(rng: random.Random, pieces: Pieces) -> None:
    piece = pick(rng, pieces)
    start = rng.randint(0, len(piece.content))
    piece.touch(piece.content[:start] + piece.content[rng.randint(start, len(piece.content)) :])


def cut_off(rng: random.Random, pieces: Pieces) -> None:
    at = rng.randrange(len(pieces))
    pieces[at].touch(pieces[at].content[: rng.randint(0, len(pieces[at].content))])
    del pieces[at + 1 :]


def swap_lines(rng: random.Random, pieces: Pieces) -> None:
    a, b = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[a], pieces[b] = pieces[b], pieces[a]


def repeat_line(rng: random.Random, pieces: Pieces) -> None:
    piece = pick(rng, pieces)
    pieces.insert(rng.randint(1, len(pieces)), Piece(piece.content, piece.row))


def add_junk(rng: random.Random, pieces: Pieces) -> None:
    end = rng.choice([b"\n", b"\r\n", b"\r"])
    pieces.insert(rng.randint(1, len(pieces)), Piece(rng.choice(JUNK) + end, None))


def spoil_value(rng: random.Random, pieces: Pieces) -> None:
    piece = pick(rng, pieces)
    fields = piece.content.split(b",")
    bad = [
        b"1_0",
        b"1e400",
        b"2026-02-30",
        b"20260803",
        "१२".encode(),
        b"nan",
        b"-",
        b" ",
        b"9" * 99,
    ]
    fields[rng.randrange(len(fields))] = rng.choice(bad)
    piece.touch(b",".join(fields))


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    insert,
    insert,
    delete,
    cut_off,
    swap_lines,
    repeat_line,
    add_junk,
    spoil_value,
)


def mutate(seed: int) -> Pieces:
    rng = random.Random(seed)
    pieces = make_dump(rng)
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(MUTATIONS)(rng, pieces)
    return pieces


def untouched_lines(pieces: Pieces) -> dict[int, dict[str, Any]]:
    """What the untouched lines mean, by number; a neighbour without line end spoils a line."""
    found: dict[int, dict[str, Any]] = {}
    before = b""
    for piece in pieces:
        if piece.row is not None and (not before or before.endswith((b"\n", b"\r"))):
            found[len(LINE_END.findall(before)) + 1] = piece.row
        before += piece.content
    return found


def check(seed: int) -> str:
    """Read the dump of this number; return how it went. Fails if it should have gone otherwise."""
    pieces = mutate(seed)
    body = b"".join(piece.content for piece in pieces)
    lines = LINE_END.split(body.removeprefix(b"\xef\xbb\xbf"))
    filled = [number for number, line in enumerate(lines, 1) if line]
    untouched = untouched_lines(pieces)
    has_header = bool(filled) and untouched.get(filled[0]) == {}
    # Only an end without line end can mean that a body with a good header was cut short.
    may_be_refused = not has_header or bool(lines[-1])
    try:
        dump = parse_dump(body)
    except StockIngestionError:
        if may_be_refused:
            return "refused"
        raise
    assert account_for(dump) == filled[1:]
    if has_header:
        check_rows(dump, {number: row for number, row in untouched.items() if row})
    return "rejects" if dump.rejected else "rows alone"


def account_for(dump: Batch) -> list[int]:
    """The numbers of all lines that are a row or a reject."""
    rows = [row["line_number"] for row in dump.rows]
    rejected = [row.line_number for row in dump.rejected]
    assert rows == sorted(rows)
    assert rejected == sorted(rejected)
    for reject in dump.rejected:
        assert reject.reason
        "".join([reject.reason, *reject.row]).encode("utf-8")
    for row in dump.rows:
        "".join(value for value in row.values() if isinstance(value, str)).encode("utf-8")
    return sorted(rows + rejected)


def check_rows(dump: Batch, untouched: dict[int, dict[str, Any]]) -> None:
    found = {row["line_number"]: row for row in dump.rows}
    for number, row in untouched.items():
        expected = {name: row[name] for name in KITE_COLUMNS if name != "last_price"}
        assert found.get(number) == {**expected, "line_number": number}


def test_every_line_of_a_mutated_dump_is_accounted_for_and_untouched_ones_are_exact(
    pytestconfig: pytest.Config,
) -> None:
    outcomes: Counter[str] = Counter()
    first = int(pytestconfig.getoption("--hypothesis-seed") or 0)  # `make chaos` gives one
    for seed in (*KEPT_SEEDS, *range(first, first + DUMPS)):
        try:
            outcomes[check(seed)] += 1
        except BaseException as exc:
            exc.args = (f"dump {seed}: {exc}", *exc.args[1:])
            raise
    # The mutations hit what they should: rows among good ones, the end, the header.
    total = outcomes.total()
    assert outcomes["rejects"] > 0.4 * total
    assert outcomes["rows alone"] > 0.1 * total
    assert outcomes["refused"] > 0.05 * total
