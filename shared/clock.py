"""What time it is, for runs and for what judges them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from shared.calendar import IST

_clocks: list[Callable[[], datetime]] = [lambda: datetime.now(IST)]


def now() -> datetime:
    """The moment, in Indian time."""
    return _clocks[-1]()


@contextmanager
def use_clock(clock: Callable[[], datetime]) -> Iterator[None]:
    """In the body it is what `clock` says."""
    _clocks.append(clock)
    try:
        yield
    finally:
        _clocks.remove(clock)
