"""What is pasted after the login, and when a token dies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import IST
from shared.exceptions import AuthenticationError
from shared.kite_login import read_request_token, token_death

TOKEN = "Zq3kZ0oPa8VhBrk1D9xT4Lw7sYcM2uNf"
tokens = st.text("abcXYZ0189", min_size=4, max_size=128)


@pytest.mark.parametrize(
    "pasted",
    [
        pytest.param(TOKEN, id="the token"),
        pytest.param(f"  {TOKEN}\r\n", id="blanks and CRLF around it"),
        pytest.param(f"'{TOKEN}'", id="quotes around it"),
        pytest.param(f"request_token={TOKEN}", id="a piece of the address"),
        pytest.param(f"action=login&status=success&request_token={TOKEN}", id="the query alone"),
        pytest.param(
            f"https://127.0.0.1/?request_token={TOKEN}&action=login&status=success",
            id="the address",
        ),
        pytest.param(
            f'"http://localhost:8000/cb?action=login&type=login&request_token={TOKEN}"\n',
            id="the address in quotes, its parameters in another order",
        ),
        pytest.param(f"https://example.com/?request_token={TOKEN}#top", id="with a fragment"),
        pytest.param(f"example.com/cb?request_token={TOKEN}", id="without https"),
    ],
)
def test_read_request_token(pasted: str) -> None:
    assert read_request_token(pasted) == TOKEN


@given(token=tokens, before=st.dictionaries(tokens, st.text(), max_size=3))
def test_read_request_token_from_any_address(token: str, before: dict[str, str]) -> None:
    before.pop("status", None)
    query = urlencode({**before, "request_token": token, "status": "success"})
    assert read_request_token(f"https://example.com/?{query}") == token


@pytest.mark.parametrize(
    "pasted",
    [
        pytest.param("https://127.0.0.1/", id="an address without parameters"),
        pytest.param("https://127.0.0.1/?action=login&status=success", id="no request_token"),
        pytest.param("https://127.0.0.1/?request_token=", id="an empty one"),
        pytest.param("https://127.0.0.1/?request_token=a%0Ab%22c", id="not the shape of a token"),
        pytest.param("hello, world", id="words"),
        pytest.param("abc", id="too short"),
        pytest.param("a" * 129, id="too long"),
        pytest.param("//[?", id="what urllib takes for a broken IPv6 address"),
        pytest.param("\x00\ufffd\ufffd", id="not text"),
    ],
)
def test_read_request_token_where_there_is_none(pasted: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        read_request_token(pasted)
    assert "No request token in what came. Expected the address" in str(caught.value)


@pytest.mark.parametrize("status", ["cancelled", "error", "x" * 500, "\x1b[2J"])
def test_read_request_token_of_a_login_that_failed(status: str) -> None:
    address = f"https://127.0.0.1/?{urlencode({'request_token': TOKEN, 'status': status})}"
    with pytest.raises(AuthenticationError) as caught:
        read_request_token(address)
    assert "the login did not succeed" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@given(pasted=st.one_of(st.text(), st.text("/?[]=&:#%request_token", max_size=30)))
def test_read_request_token_of_anything(pasted: str) -> None:
    """A token of the right shape, or the one error; never what is not in the text."""
    try:
        token = read_request_token(pasted)
    except AuthenticationError:
        return
    assert token.isascii()
    assert token.isalnum()
    assert 4 <= len(token) <= 128


@pytest.mark.parametrize(
    ("now", "death"),
    [
        pytest.param("2026-08-04T05:59:59.999999", "2026-08-04", id="just before"),
        pytest.param("2026-08-04T06:00:00", "2026-08-05", id="at six it is dead: the next day's"),
        pytest.param("2026-08-04T08:30:00", "2026-08-05", id="morning"),
        pytest.param("2026-08-04T23:59:59", "2026-08-05", id="before midnight"),
        pytest.param("2026-08-05T00:00:00", "2026-08-05", id="midnight"),
        pytest.param("2026-12-31T10:00:00", "2027-01-01", id="new year"),
    ],
)
def test_token_death(now: str, death: str) -> None:
    expected = datetime.fromisoformat(f"{death}T06:00:00+05:30")
    assert token_death(datetime.fromisoformat(now).replace(tzinfo=IST)) == expected


@pytest.mark.parametrize(
    ("now", "death"),
    [
        pytest.param("2026-08-04T00:29:59+00:00", "2026-08-04", id="London, just before"),
        pytest.param("2026-08-04T00:30:00+00:00", "2026-08-05", id="London, at six IST"),
        pytest.param("2026-08-03T20:31:00-04:00", "2026-08-05", id="New York, the evening before"),
        pytest.param("2026-03-29T02:30:00+02:00", "2026-03-30", id="summer time begins"),
    ],
)
def test_token_death_seen_from_elsewhere(now: str, death: str) -> None:
    moment = token_death(datetime.fromisoformat(now))
    assert moment.isoformat() == f"{death}T06:00:00+05:30"


@given(now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_token_death_is_within_a_day(now: datetime) -> None:
    assert timedelta(0) < token_death(now) - now <= timedelta(days=1)
    assert token_death(now).strftime("%H:%M %z") == "06:00 +0530"
