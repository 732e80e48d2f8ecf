"""What the sandbox has for DAG 3: NSE's list, with the renames of the made-up market."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import count

from sandbox.dump_generator import Rename, list_renames
from sandbox.kite_faults import CSV_TYPE, Answer
from sandbox.kite_server import KiteServer, RecordedRequest
from sandbox.market_ledger import trading_day

_PATH = "/content/equities/symbolchange.csv"
_HEADER = "SYMB_COMPANY_NAME, SM_KEY_SYMBOL, SM_NEW_SYMBOL, SM_APPLICABLE_FROM\n"
# Before the market's first day, on which nobody is renamed: a chain, and a symbol that stays.
_EARLIER = [
    Rename(date(2019, 7, 1), "Deccan Dyes, Paints & Chemicals Limited", "DYES&PAINT", "DECCANDYE"),
    Rename(date(2023, 2, 14), "Deccan Dyes, Paints & Chemicals Limited", "DECCANDYE", "DECCHEM"),
    Rename(date(2024, 11, 4), "Malabar Roads Trust", "MALABARINV", "MALABARINV"),
]


class _Nse(KiteServer):
    def make_answer(self, request: RecordedRequest, body: bytes) -> Answer:
        """The list, whoever asks for it."""
        if request.path != _PATH:
            return Answer(404, b"")
        return Answer(
            200, self.dump() if callable(self.dump) else self.dump, (("Content-Type", CSV_TYPE),)
        )


@contextmanager
def open_part(kite: KiteServer, day: date) -> Iterator[dict[str, dict[str, str]]]:
    """The server of the list, and the setting that leads to it."""
    number = next(number for number in count() if trading_day(number) >= day)
    lines = map(_write, [*_EARLIER, *list_renames(number)])
    with _Nse((_HEADER + "".join(lines)).encode()) as nse:
        yield {"parameters": {"address": nse.root + _PATH}}


def _write(rename: Rename) -> str:
    day = f"{rename.on:%d-%b-%Y}".upper()
    return f"{rename.company},{rename.old},{rename.new},{day}\n"
