"""Kite's historical candles, as a route for `KiteServer`: its rules, its limits, and its mischief.

    route = CandleRoute(ListedCandles({(408065, "day"): candles}))
    server.add_route(PATH, route)
    route.adjust(408065, "0.2", date(2026, 8, 4))
    route.misbehave("empty", token=408065)

It knows nothing of the DAG's code, which it is there to test. All moments are naive and in India.
Whatever is changed counts from the next request on, from any thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from time import monotonic
from typing import Any, Protocol

from dag_2_import_candles_from_kite.sandbox_mischief import KINDS, spoil
from dag_2_import_candles_from_kite.sandbox_request import (
    PATH,
    Asked,
    RefusalError,
    Wanted,
    check,
    read,
)
from dag_2_import_candles_from_kite.sandbox_series import Series, render
from sandbox.kite_faults import JSON_TYPE, Answer, make_json_error
from sandbox.market_candles import CLOSES, OPENS, Candle

__all__ = ["PATH", "CandleRoute", "ListedCandles", "Truth"]

_MONTH = timedelta(30)
_OTHERS = ("other token", "other span")


class Truth(Protocol):
    """What there is to know of the market, unadjusted."""

    def candles(self, token: int, interval: str) -> Sequence[Candle]:
        """All candles, oldest first. Raises KeyError for an unknown token.

        Another list, or another length of it, is noticed at the next request.
        """


class ListedCandles:
    """A truth that is a mapping of tokens and intervals; of a known token others are empty."""

    def __init__(self, listed: Mapping[tuple[int, str], Sequence[Candle]]) -> None:
        """Keep the mapping itself: what is changed in it is served."""
        self.listed = listed

    def candles(self, token: int, interval: str) -> Sequence[Candle]:
        """All candles, oldest first. Raises KeyError for an unknown token."""
        found = self.listed.get((token, interval))
        if found is None and all(token != known for known, _ in self.listed):
            raise KeyError(token)
        return found if found is not None else ()


class CandleRoute:
    """The handler for `KiteServer.add_route(PATH, route)`.

    Attributes:
        now: The candle that runs at this moment is unfinished, and later ones are not there yet.
            None: all are there.
        limit_per_second: More within any second are answered with 429. None: no limit.
    """

    def __init__(
        self,
        source: Truth,
        *,
        now: datetime | None = None,
        limit_per_second: int | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Serve what `source` has; `clock` gives the seconds for the limit."""
        self.now = now
        self.limit_per_second = limit_per_second
        self._source = source
        self._clock = clock
        self._lock = threading.RLock()
        self._is_forbidden = False
        self._forgotten: set[int] = set()
        self._factors: dict[int, list[tuple[date, Decimal]]] = {}
        self._corrections: dict[tuple[int, str], dict[datetime, Mapping[str, Any]]] = {}
        self._sessions: dict[int, tuple[time, time]] = {}
        self._series: dict[tuple[int, str], Series] = {}
        self._mischief: list[_Mischief] = []
        self._turn = 0
        self._admitted: deque[float] = deque()
        self._requests: list[Asked] = []

    @property
    def requests(self) -> list[Asked]:
        """The requests so far, but those that a fault of the server's kept from this route."""
        with self._lock:
            return list(self._requests)

    def forbid(self, *, forbidden: bool = True) -> None:
        """Answer as for a plan without historical data: 403, PermissionException."""
        self._is_forbidden = forbidden

    def forget(self, token: int) -> None:
        """Refuse a token, as that of an expired contract."""
        with self._lock:
            self._forgotten.add(token)

    def adjust(self, token: int, factor: Decimal | str, before: date) -> None:
        """Multiply all prices of the days before `before`, beside earlier adjustments.

        The product of all factors is applied to the truth, and rounded once, to a paisa.
        """
        with self._lock:
            self._factors.setdefault(token, []).append((before, Decimal(factor)))
            self._renew(token)

    def correct(self, token: int, interval: str, ts: datetime, **values: Decimal | int) -> None:
        """Change some values of a candle (`open=...`), or add one of which all are given.

        The values are unadjusted. A second call adds to, or replaces, what the first one changed.
        """
        with self._lock:
            changes = self._corrections.setdefault((token, interval), {})
            changes[ts] = {**changes.get(ts, {}), **values}
            self._renew(token)

    def set_session(self, token: int, opens: time, closes: time) -> None:
        """Let candles of a token run until another hour than NSE's; this matters with `now`."""
        with self._lock:
            self._sessions[token] = (opens, closes)
            self._renew(token)

    def misbehave(
        self,
        kind: str,
        times: int = 1,
        *,
        token: int | None = None,
        interval: str | None = None,
        other: int | None = None,
    ) -> None:
        """Give wrong answers, of status 200, to the next requests that would get good ones.

        - "empty": no candles;
        - "other token": those of the token `other`;
        - "other span": those of a month before, or a month after where none were;
        - "cut list": without the last third;
        - "unordered": newest first;
        - "twice": each one twice;
        - "garbage values": one of them is none, in one way after the other; the names of
          single ways, see `GARBAGE`, are kinds too.

        Args:
            kind: One of these.
            times: To how many requests.
            token: For this token only.
            interval: For this interval only.
            other: Whose candles come for "other token".

        Raises ValueError for another kind, or if `other` is lacking.
        """
        if kind not in (*KINDS, *_OTHERS):
            known = ", ".join((*KINDS, *_OTHERS))
            raise ValueError(f'kind: expected one of {known}, got "{kind}"')
        if kind == "other token" and other is None:
            raise ValueError('other: expected a token for the kind "other token"')
        with self._lock:
            self._mischief.append(_Mischief(kind, times, token, interval, other))

    def served(
        self,
        token: int,
        interval: str,
        first: datetime = datetime.min,
        last: datetime = datetime.max,
        *,
        finished: bool = False,
    ) -> list[Candle]:
        """The candles of a perfect answer, both ends included; `finished`: but a running one.

        Raises KeyError for an unknown token.
        """
        with self._lock:
            series = self._get_series(token, interval)
            begin, end, running = series.find(first, last, self.now)
            found = [series.get(position) for position in range(begin, end)]
            return found if running is None or finished else [*found, running]

    def __call__(self, path: str, query: Mapping[str, Sequence[str]]) -> Answer:
        """Answer a request."""
        with self._lock:
            asked = read(path, query)
            try:
                self._admit()
                rows = self._list_rows(check(asked, path, query))
            except RefusalError as exc:
                self._requests.append(asked._replace(status=exc.status))
                return make_json_error(exc.status, str(exc), exc.error_type)
            self._requests.append(asked._replace(candles=len(rows)))
        body = f'{{"status":"success","data":{{"candles":[{",".join(rows)}]}}}}'
        return Answer(200, body.encode(), (("Content-Type", JSON_TYPE),))

    def _admit(self) -> None:
        """Count the request, unless it is one too many, or nobody may ask."""
        now = self._clock()
        while self._admitted and now - self._admitted[0] >= 1:
            self._admitted.popleft()
        if self.limit_per_second is not None and len(self._admitted) >= self.limit_per_second:
            raise RefusalError("Too many requests", 429, "NetworkException")
        self._admitted.append(now)
        if self._is_forbidden:
            message = "Insufficient permission for that call."
            raise RefusalError(message, 403, "PermissionException")

    def _list_rows(self, wanted: Wanted) -> list[str]:
        """The rows of the answer, in JSON."""
        if wanted.token in self._forgotten:
            raise RefusalError("invalid token")
        rows = self._render(wanted)
        mischief = self._take_mischief(wanted)
        if mischief is None:
            return rows
        if mischief.kind == "other token":
            return self._render(wanted._replace(token=mischief.other or 0))
        if mischief.kind == "other span":
            return self._render(wanted.move(-_MONTH)) or self._render(wanted.move(_MONTH))
        self._turn += 1
        return spoil(rows, mischief.kind, self._turn - 1)

    def _render(self, wanted: Wanted) -> list[str]:
        try:
            series = self._get_series(wanted.token, wanted.interval)
        except KeyError:
            raise RefusalError("invalid token") from None
        begin, end, running = series.find(wanted.begin, wanted.end, self.now)
        rows = [series.render(position, oi=wanted.oi) for position in range(begin, end)]
        return rows if running is None else [*rows, render(running, oi=wanted.oi)]

    def _take_mischief(self, wanted: Wanted) -> "_Mischief | None":
        for planned in self._mischief:
            if planned.fits(wanted):
                planned.times -= 1
                if planned.times <= 0:
                    self._mischief.remove(planned)
                return planned
        return None

    def _get_series(self, token: int, interval: str) -> Series:
        """The series, kept as long as the truth has the same list."""
        candles = self._source.candles(token, interval)
        series = self._series.get((token, interval))
        if series is None or not series.is_of(candles):
            corrections = self._corrections.get((token, interval), {})
            factors = self._factors.get(token, ())
            session = self._sessions.get(token, (OPENS, CLOSES))
            series = Series(candles, interval, corrections, factors, session)
            self._series[token, interval] = series
        return series

    def _renew(self, token: int) -> None:
        for key in [key for key in self._series if key[0] == token]:
            del self._series[key]


@dataclass
class _Mischief:
    kind: str
    times: int
    token: int | None
    interval: str | None
    other: int | None

    def fits(self, wanted: Wanted) -> bool:
        return self.token in (None, wanted.token) and self.interval in (None, wanted.interval)
