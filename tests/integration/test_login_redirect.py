"""`login` at a terminal, and the browser that Kite leads back: real HTTP, a real exchange."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from dotenv import dotenv_values

import execute_dags
from sandbox.kite_faults import HttpError
from sandbox.kite_server import KiteServer
from shared import kite_login
from shared.config import config_loader
from tests.own_postgres import free_port

LOGIN_PATH = "/session/token"
GOOD = "/?action=login&type=login&status=success&request_token={}"
FORGED = "f0" * 16


@dataclass
class Desk:
    """A person's terminal and browser: what they do begins when the terminal asks."""

    kite: KiteServer
    port: int
    keyboard: int
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    pages: list[tuple[int, str]] = field(default_factory=list)

    def log_in(self, act: Callable[[], None]) -> tuple[int, str, str]:
        """The exit status of `login`, while a person does `act`, and what it said."""
        say_lines = kite_login.say_lines
        person = threading.Thread(target=self._act, args=(act,))

        def say_and_let_act(text: str) -> None:
            say_lines(text)
            person.start()

        self.monkeypatch.setattr(kite_login, "say_lines", say_and_let_act)
        self.monkeypatch.setattr("sys.argv", ["execute_dags.py", "login"])
        status = execute_dags.run(execute_dags.parse_arguments())
        person.join(30)
        said = self.capsys.readouterr()
        pages = " ".join(page for _, page in self.pages)
        for secret in (self.kite.api_secret, FORGED, self.kite.access_token, *self.tokens):
            assert not secret or secret not in said.out + said.err + pages
        return status, said.out, said.err

    def _act(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException:
            os.write(self.keyboard, b"\x04")  # Ctrl-D ends the login
            raise

    def type(self, line: str) -> None:
        os.write(self.keyboard, f"{line}\n".encode())

    def open(
        self, path: str, method: str = "GET", host: str = "127.0.0.1:{}"
    ) -> tuple[int, str, dict[str, str]]:
        """What the browser shows: status, text and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers={"Host": host.format(self.port)})
        answer = connection.getresponse()
        page = answer.read().decode()
        connection.close()
        self.pages.append((answer.status, page))
        return answer.status, page, dict(answer.getheaders())

    def issue(self) -> str:
        self.tokens.append(self.kite.issue_request_token())
        return self.tokens[-1]

    tokens: list[str] = field(default_factory=list)

    @property
    def exchanges(self) -> int:
        return sum(request.path == LOGIN_PATH for request in self.kite.requests)

    @property
    def kept(self) -> str | None:
        """The access token in .env."""
        return dotenv_values(config_loader.ENV_FILE).get("KITE_ACCESS_TOKEN")


@pytest.fixture
def desk(
    kite: KiteServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    port = free_port()
    monkeypatch.setenv("KITE_API_KEY", kite.api_key)
    monkeypatch.setenv("KITE_API_SECRET", kite.api_secret)
    monkeypatch.setenv("KITE_API_ROOT", kite.root)
    monkeypatch.setenv("KITE_REDIRECT_ADDRESS", f"http://127.0.0.1:{port}/")
    kite.expire_token()
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        yield Desk(kite, port, ours, monkeypatch, capsys)
    os.close(ours)


def test_browser_that_comes_back_is_the_login(desk: Desk) -> None:
    status, output, errors = desk.log_in(lambda: desk.open(GOOD.format(desk.issue())) and None)
    assert (status, errors) == (0, "")
    assert desk.pages == [(200, "Logged in. You may close this window.\n")]
    assert desk.kept == desk.kite.access_token
    address = f"http://127.0.0.1:{desk.port}/"
    assert f"https://developers.kite.trade, is {address}\n" in output
    assert f"ssh -L {desk.port}:127.0.0.1:{desk.port} HOST\n" in output
    assert "Logged in as SB0001. The token is in .env" in output
    assert max(map(len, output.partition("2. ")[2].partition("Logged")[0].split("\n"))) <= 80
    with pytest.raises(ConnectionRefusedError):
        desk.open("/")


def test_what_is_no_login_is_refused_and_waited_on(desk: Desk) -> None:
    def browse() -> None:
        redirect = GOOD.format(FORGED)
        for path, method, host, status in (
            ("/", "GET", "127.0.0.1:{}", 404),
            ("/favicon.ico", "GET", "127.0.0.1:{}", 404),
            (f"/other{redirect[1:]}", "GET", "127.0.0.1:{}", 404),
            (redirect, "POST", "127.0.0.1:{}", 501),
            (redirect, "GET", "rebound.example:{}", 403),
            (redirect, "GET", "127.0.0.1", 403),
            (f"/{'x' * 70_000}", "GET", "localhost:{}", 414),
        ):
            assert desk.open(path, method, host)[0] == status, path[:50]
        assert desk.exchanges == 0
        status, page, headers = desk.open(redirect, host="LOCALHOST:{}")
        assert (status, page[:37]) == (400, "Not logged in. Kite refused the login")
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]
        status, page, _ = desk.open("/?status=<b>cancelled&request_token=x")
        assert "the login did not succeed (status='<b>cancelled')" in page
        desk.kite.fail_next(LOGIN_PATH, HttpError(503))
        assert "Kite answered HTTP 503" in desk.open(GOOD.format(desk.issue()))[1]
        desk.open(GOOD.format(desk.issue()))

    status, output, errors = desk.log_in(browse)
    assert (status, desk.exchanges, desk.kept) == (0, 3, desk.kite.access_token)
    assert len(desk.pages) == 11
    lines = errors.splitlines()
    assert [line[:33] for line in lines] == [
        "WARNING: Kite refused the login (",
        "WARNING: Kite's address says that",
        "WARNING: Kite answered HTTP 503 (",
    ]
    assert all(line.endswith(" Still waiting for a login; Ctrl-C ends this.") for line in lines)
    assert "Logged in as SB0001" in output


def test_paste_while_a_browser_holds_a_connection_open(desk: Desk) -> None:
    with socket.socket() as idle:

        def paste() -> None:
            idle.connect(("127.0.0.1", desk.port))
            desk.type(f"https://127.0.0.1{GOOD.format(desk.issue())}")

        status, _, errors = desk.log_in(paste)
    assert (status, errors, desk.kept) == (0, "", desk.kite.access_token)


def test_junk_that_is_pasted_is_told_and_waited_on(desk: Desk) -> None:
    def act() -> None:
        for line in ("", "no token", FORGED, desk.issue()):
            desk.type(line)

    status, _, errors = desk.log_in(act)
    assert (status, errors.count("Still waiting for a login")) == (0, 2)
    assert errors.startswith("WARNING: No request token in what came.")
    assert desk.exchanges == 2


def test_end_of_input_ends_the_login(desk: Desk) -> None:
    def act() -> None:
        os.write(desk.keyboard, b"\x04")

    status, _, errors = desk.log_in(act)
    assert (status, "Nothing came on standard input" in errors) == (3, True)


def test_env_file_that_cannot_be_changed_ends_the_login(desk: Desk) -> None:
    def browse() -> None:
        config_loader.ENV_FILE.mkdir()
        desk.open(GOOD.format(desk.issue()))

    status, _, errors = desk.log_in(browse)
    assert (status, desk.exchanges) == (2, 1)
    assert desk.pages == [(400, "Not logged in: the terminal says why.\n")]
    assert errors.startswith("ERROR: .env cannot be written: ")


@pytest.mark.parametrize(
    ("address", "remark"),
    [
        pytest.param("http://127.0.0.1:{}/cb", "(Address already in use): paste", id="port in use"),
        pytest.param("https://example.com/", "", id="address elsewhere"),
        pytest.param("https://127.0.0.1:{}/", "", id="address that wants TLS"),
    ],
)
def test_paste_where_nothing_can_be_listened_on(
    address: str, remark: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITE_REDIRECT_ADDRESS", address.format(desk.port))
    with socket.create_server(("127.0.0.1", desk.port)):
        status, output, errors = desk.log_in(lambda: desk.type(desk.issue()))
    assert (status, desk.kept) == (0, desk.kite.access_token)
    assert "\n2. Paste the address that the browser shows then (or its request_token):\n" in output
    assert remark in errors
    assert bool(remark) == bool(errors)
