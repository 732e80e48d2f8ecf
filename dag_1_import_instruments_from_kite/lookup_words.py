"""The words of `find`: what each may mean, as conditions on a row of the list.

A condition is SQL of this module's own; what was typed is bound as a parameter. `s` and `n` are
the row's symbol and name in capitals without blanks, `n` is never NULL.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from decimal import Decimal
from itertools import permutations
from typing import Any, NamedTuple

# In the order in which they are meant where none is named.
EXCHANGES = ("NSE", "NFO", "BSE", "BFO", "MCX", "CDS", "BCD", "NCO", "NSEIX", "GLOBAL")

# Kite's names of the indices that have options, by those of the options.
INDICES = {
    "NIFTY": "NIFTY 50",
    "BANKNIFTY": "NIFTY BANK",
    "FINNIFTY": "NIFTY FIN SERVICE",
    "MIDCPNIFTY": "NIFTY MID SELECT",
    "NIFTYNXT50": "NIFTY NEXT 50",
}

# What is in a name that a symbol begins with, as a contract's does, is in the symbol: not to make
# its `n` halves the time.
_NAME_IS_MORE = "NOT pg_catalog.starts_with(tradingsymbol::text, name::text)"

_OPTION = "instrument_type::text IN ('CE', 'PE')"
_INDEX = "pg_catalog.right(segment::text, 7) = 'INDICES'"
_SHARE = f"instrument_type::text = 'EQ' AND NOT coalesce({_INDEX}, false)"
_TYPES = {
    **dict.fromkeys(("CE", "CALL", "CALLS"), "instrument_type::text = 'CE'"),
    **dict.fromkeys(("PE", "PUT", "PUTS"), "instrument_type::text = 'PE'"),
    **dict.fromkeys(("FUT", "FUTS", "FUTURE", "FUTURES"), "instrument_type::text = 'FUT'"),
    **dict.fromkeys(("OPT", "OPTS", "OPTION", "OPTIONS"), _OPTION),
    **dict.fromkeys(("INDEX", "INDICES"), _INDEX),
    "EQ": _SHARE,
}

_MONTHS = (
    *("JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE", "JULY"),
    *("AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"),
)
_MONTH_OF = {name[:3]: number for number, name in enumerate(_MONTHS, 1)}
_MONTH_OF |= {name: number for number, name in enumerate(_MONTHS, 1)} | {"SEPT": 9}
_MONTH = re.compile(
    rf"(\d\d?)?[-/]?({'|'.join(sorted(_MONTH_OF, key=len, reverse=True))})[-/]?(\d\d|\d{{4}})?"
)
_DATE = re.compile(r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)")
_INDIAN_DATE = re.compile(r"(?P<day>\d\d?)[-/](?P<month>\d\d?)[-/](?P<year>\d{4}|\d\d)")
_NUMBER = re.compile(r"\d+(\.\d+)?|\d{1,3}(,\d{2,3})+(\.\d+)?", re.ASCII)
_STRIKE_AND_TYPE = re.compile(r"([\d,]+(?:\.\d+)?)(CE|PE)", re.ASCII)
_SCRIP_CODE = re.compile(r"\d{6}", re.ASCII)
_LAST_TOKEN = 2**63 - 1

# Of words beside each other so many make one text: BANK NIFTY is BANKNIFTY.
_LONGEST_PHRASE = 3
_MOST_PHRASE_WORDS = 5


class Word(NamedTuple):
    """A word: the condition on a row, with its parameters, and how well a row meets it.

    `rank` is SQL of 0 (as well as can be) and more; a row that meets `exact` comes before all
    others; `text` is what a whole symbol or name may be.
    """

    typed: str
    condition: str
    params: dict[str, Any]
    rank: str = "0"
    text: str = ""
    exact: str = ""


def parse_words(texts: Iterable[str]) -> list[Word]:
    """The words in the texts, which may have several each; `25000CE` and `NSE:INFY` are two."""
    known = (text.encode("utf-8", "replace").decode().replace("\0", "?") for text in texts)
    parts = [part for text in known for word in text.split() for part in _split(word)]
    return [make(str(index), typed) for index, (typed, make) in enumerate(parts)]


def find_phrases(words: Sequence[Word]) -> list[list[str]]:
    """What a whole symbol or name may be: texts of several words first, of one last."""
    texts = list(dict.fromkeys(word.text for word in words if word.text))[:_MOST_PHRASE_WORDS]
    sizes = range(min(len(texts), _LONGEST_PHRASE), 0, -1)
    return [["".join(each) for each in permutations(texts, size)] for size in sizes]


def capitals(text: str) -> str:
    """`text` with ASCII's letters in capitals, as the statements compare it."""
    return re.sub("[a-z]+", lambda match: match[0].upper(), text)


def _split(word: str) -> list[tuple[str, Callable[[str, str], Word]]]:
    exchange, colon, symbol = word.partition(":")
    if colon and capitals(exchange) in EXCHANGES:
        return [(exchange, _make_exchange), *(_split(symbol) if symbol else ())]
    if match := _STRIKE_AND_TYPE.fullmatch(capitals(word)):
        return [(match[1], _make), (match[2], _make)]
    return [(word, _make)]


def _make_exchange(index: str, typed: str) -> Word:
    return Word(typed, f"exchange::text = %(w{index})s", {f"w{index}": capitals(typed)})


def _make(index: str, typed: str) -> Word:
    word = capitals(typed)
    if word in _TYPES:
        return Word(typed, _TYPES[word], {})
    if word in EXCHANGES:  # NSE is in SENSEX, NFO in INFOSYS: no part of a text
        condition = f"exchange::text = %(w{index})s OR s = %(w{index})s OR n = %(w{index})s"
        return Word(typed, condition, {f"w{index}": word}, text=word)
    if match := _MONTH.fullmatch(word):
        return _make_month(index, typed, match)
    if match := _DATE.fullmatch(word) or _INDIAN_DATE.fullmatch(word):
        try:
            day = date(_whole_year(match["year"]), int(match["month"]), int(match["day"]))
        except ValueError:  # 2026-02-30: a text like another
            return _make_text(index, typed)
        return Word(typed, f"expiry = %(w{index})s", {f"w{index}": day})
    return (_make_number if _NUMBER.fullmatch(word) else _make_text)(index, typed)


def _make_month(index: str, typed: str, match: re.Match[str]) -> Word:
    """SEP, 24SEP, 24SEP26; what stands alone beside the month may be the day or the year."""
    before, month, after = match.groups()
    params = {f"w{index}": _MONTH_OF[month]}
    condition = f"pg_catalog.date_part('month', expiry)::int = %(w{index})s"
    if before and after:
        params |= {f"w{index}d": int(before), f"w{index}y": _whole_year(after)}
        condition += f" AND {_day(index)} AND {_year(index)}"
    elif number := before or after:
        params |= {f"w{index}d": int(number), f"w{index}y": _whole_year(number)}
        condition += f" AND ({_day(index)} OR {_year(index)})"
    return Word(typed, condition, params)


def _make_number(index: str, typed: str) -> Word:
    """A strike, a token, a BSE scrip code, a whole number in a text; the expiry's day or year.

    In the symbol of a contract it is no text: NIFTY26AUG has a year, 24500CE another strike.
    """
    digits = typed.replace(",", "")
    name = f"w{index}"
    whole = rf"(^|[^0-9.]){re.escape(digits)}([^0-9.]|$)"
    params: dict[str, Any] = {name: Decimal(digits), f"{name}p": f"%{digits}%", f"{name}r": whole}
    meanings = [
        f"{_OPTION} AND strike = %({name})s::numeric",
        f"name::text LIKE %({name}p)s AND name::text ~ %({name}r)s",
        f"expiry IS NULL AND tradingsymbol::text LIKE %({name}p)s"
        f" AND tradingsymbol::text ~ %({name}r)s",
    ]
    exact = []
    if digits.isdecimal() and int(digits) <= _LAST_TOKEN:
        params[f"{name}t"] = int(digits)
        exact.append(f"instrument_token = %({name}t)s")
    if _SCRIP_CODE.fullmatch(digits):
        params[f"{name}c"] = digits
        exact.append(f"exchange::text = 'BSE' AND exchange_token::text = %({name}c)s")
    condition = " OR ".join(f"({each})" for each in (*exact, *meanings))
    word = Word(typed, condition, params, text=digits, exact=" OR ".join(exact))
    if not digits.isdecimal() or len(digits) not in (1, 2, 4):
        return word
    params |= {f"{name}d": int(digits), f"{name}y": _whole_year(digits)}
    rank = f"CASE WHEN {condition} THEN 0 ELSE 1 END"
    condition += f" OR {_day(index)} OR {_year(index)}"
    return word._replace(condition=condition, rank=rank)


def _make_text(index: str, typed: str) -> Word:
    """A part of a symbol or of a name, or what the options on an index are called."""
    name, text = f"w{index}", capitals(typed)
    literal = re.sub(r"([\\%_])", r"\\\1", text)
    params = {f"{name}p": f"%{literal}%", f"{name}b": f"{literal}%", f"{name}w": f"% {literal}%"}
    condition = f"s LIKE %({name}p)s OR {_NAME_IS_MORE} AND n LIKE %({name}p)s"
    begins = f"s LIKE %({name}b)s"
    if text in INDICES:
        params[f"{name}i"] = INDICES[text].replace(" ", "")
        condition += f" OR s = %({name}i)s"
        begins += f" OR s = %({name}i)s"
    later = f'pg_catalog.upper(name::text COLLATE "C") LIKE %({name}w)s'
    rank = (
        f"CASE WHEN {begins} THEN 0 WHEN n LIKE %({name}b)s THEN 1 WHEN {later} THEN 2 ELSE 3 END"
    )
    return Word(typed, condition, params, rank, text)


def _day(index: str) -> str:
    return f"pg_catalog.date_part('day', expiry)::int = %(w{index}d)s"


def _year(index: str) -> str:
    return f"pg_catalog.date_part('year', expiry)::int = %(w{index}y)s"


def _whole_year(text: str) -> int:
    return int(text) + 2000 if len(text) < 4 else int(text)
