"""What stands around a run decides nothing: ~/.netrc, libpq's variables, passwords in addresses.

Proxies may, and what only finds certificates (ruling 36).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import libpq_version

from sandbox.kite_faults import HttpError
from sandbox.kite_server import KiteServer
from tests.command_line import CommandLine
from tests.conftest import Project, Server
from tests.instruments import instrument, to_csv

LIST = to_csv([instrument(1, "INFY", "NSE"), instrument(2, "TCS", "NSE")])
PASSWORD = "pr0xy/S3cret pass"  # as it is written in an address, and as it is
WRITTEN = "pr0xy%2FS3cret%20pass"
CLOSED_PORT = "127.0.0.1:9"


@pytest.fixture
def elsewhere() -> Iterator[KiteServer]:
    """A Kite at an address for which requests looks at the environment and ~/.netrc."""
    with KiteServer(LIST, host="127.0.0.2") as running:
        yield running


@pytest.fixture
def cursor(server: Server, database: str) -> Iterator[Any]:
    connection = server.connect(database)
    yield connection.cursor()
    connection.close()


def count_rows(cursor: Any) -> int:
    cursor.execute("SELECT count(*) FROM public.kite_instrument_master")
    return int(cursor.fetchone()[0])


def sent(kite: KiteServer) -> set[str]:
    return {request.headers["authorization"] for request in kite.requests}


# ~/.netrc


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("machine 127.0.0.2 login someone password netrc-S3cret\n", id="machine"),
        pytest.param("default login someone password netrc-S3cret\n", id="default"),
    ],
)
@pytest.mark.parametrize("place", ["home", "NETRC"])
def test_netrc_does_not_replace_the_token(
    configured_project: Project,
    elsewhere: KiteServer,
    cursor: Any,
    tmp_path: Path,
    entry: str,
    place: str,
) -> None:
    file = tmp_path / ".netrc"
    file.write_text(entry)
    file.chmod(0o600)
    where = {"HOME": str(tmp_path)} if place == "home" else {"NETRC": str(file)}
    result = configured_project.run("--dag", "1", KITE_API_ROOT=elsewhere.root, **where)
    assert (result.returncode, result.stderr) == (0, "")
    assert sent(elsewhere) == {"token sandbox_key:sandbox_token"}
    assert count_rows(cursor) == 2


# The address of the API


@pytest.mark.parametrize(
    "root",
    [
        pytest.param("http://someone:r00t-S3cret@{}", id="user and password"),
        pytest.param("https://r00t-S3cret@{}", id="a token"),
        pytest.param("https://someone:r00t-S3cret@[{}", id="no address at all"),
        pytest.param("someone:r00t-S3cret@{}", id="no scheme"),
    ],
)
def test_password_in_the_address_is_refused_and_not_shown(
    configured_project: Project, elsewhere: KiteServer, root: str
) -> None:
    address = root.format(elsewhere.root.removeprefix("http://"))
    result = configured_project.run("--dag", "1", KITE_API_ROOT=address)
    assert result.returncode == 2
    assert "api.root: expected an address without user and password" in result.stderr
    assert "r00t-S3cret" not in result.stdout + result.stderr + configured_project.log
    assert elsewhere.requests == []


def test_address_that_is_not_encrypted_is_warned_of_once(
    configured_project: Project, kite: KiteServer
) -> None:
    kite.dump = LIST
    kite.fail_next("/instruments", HttpError(503))  # a second attempt warns of nothing more
    result = configured_project.run(
        "--dag", "1", KITE_API_ROOT="http://kite.invalid", HTTP_PROXY=kite.root
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("KITE_API_ROOT is http://kite.invalid: without https://") == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_address_of_this_machine_is_not_warned_of(configured_project: Project, host: str) -> None:
    with KiteServer(LIST, host="127.0.0.1" if host == "localhost" else host) as kite:
        root = kite.root.replace("127.0.0.1", host)
        result = configured_project.run("check", KITE_API_ROOT=root)
    assert (result.returncode, result.stderr) == (0, "")


# Proxies


def test_proxy_is_used_and_no_proxy_heeded(configured_project: Project, kite: KiteServer) -> None:
    proxy = {"HTTP_PROXY": f"http://someone:{WRITTEN}@{kite.root.removeprefix('http://')}"}
    root = f"http://127.0.0.2:{CLOSED_PORT.rpartition(':')[2]}"
    result = configured_project.run("check", KITE_API_ROOT=root, **proxy)
    assert (result.returncode, result.stderr) == (0, "")
    (request,) = kite.requests
    assert request.headers["proxy-authorization"].startswith("Basic ")
    assert request.headers["authorization"] == "token sandbox_key:sandbox_token"
    direct = configured_project.run("check", KITE_API_ROOT=root, NO_PROXY="127.0.0.2", **proxy)
    assert direct.returncode == 1
    assert f"No connection to Kite at {root}: Connection refused" in direct.stdout
    assert len(kite.requests) == 1


@pytest.mark.parametrize(
    "proxy",
    [
        pytest.param("http://someone:{}@" + CLOSED_PORT, id="closed port"),
        pytest.param("http://someone:{}@127.0.0.1:port", id="no port"),
        pytest.param("http://someone:{}@", id="no host"),
        pytest.param("someone:{}@127.0.0.1:9", id="no scheme"),
        pytest.param("ftp://someone:{}@127.0.0.1:9", id="another scheme"),
        pytest.param("http://some[one:{}@127.0.0.1:9", id="half a bracket"),
    ],
)
@pytest.mark.parametrize("password", [WRITTEN, PASSWORD], ids=["encoded", "as it is"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_password_of_a_proxy_is_in_no_message(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, proxy: str, password: str, scheme: str
) -> None:
    monkeypatch.setenv("KITE_API_ROOT", f"{scheme}://127.0.0.2:9")
    monkeypatch.setenv(f"{scheme}_proxy".upper(), proxy.format(password))
    result = cli.run("--dag", "1", "--log-level", "DEBUG")
    assert result.status == 1
    assert "HTTPS_PROXY" in result.stderr or "No connection to Kite at" in result.stderr
    log = (cli.folder / "logs" / "stock_ingestion.log").read_text(encoding="utf-8")
    for form in (PASSWORD, WRITTEN, "pr0xy"):
        assert form not in result.stdout + result.stderr + log


def test_echo_of_the_proxy_s_password_is_masked(
    configured_project: Project, kite: KiteServer
) -> None:
    kite.fail_next("*", HttpError(400, f"no, {PASSWORD} {WRITTEN}"), None)
    proxy = f"http://someone:{WRITTEN}@{kite.root.removeprefix('http://')}"
    result = configured_project.run("check", KITE_API_ROOT="http://127.0.0.2:9", HTTP_PROXY=proxy)
    assert "missing or malformed (HTTP 400, InputException: no, *** ***)" in result.stdout
    assert "S3cret" not in result.stdout + result.stderr + configured_project.log


def test_bundle_of_certificates_is_heeded(configured_project: Project, tmp_path: Path) -> None:
    bundle = str(tmp_path / "nowhere.crt")
    result = configured_project.run(
        "check", KITE_API_ROOT="https://127.0.0.2:9", REQUESTS_CA_BUNDLE=bundle
    )
    assert result.returncode == 1
    assert f"TLS CA certificate bundle, invalid path: {bundle}" in result.stdout


# libpq's variables


# Nobody listens at 127.0.0.3.
SERVICE = """[elsewhere]
hostaddr=127.0.0.3
options=-c search_path=other
"""


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"PGHOSTADDR": "127.0.0.3"}, id="PGHOSTADDR"),
        pytest.param({"PGSERVICE": "elsewhere", "PGSERVICEFILE": "{}"}, id="PGSERVICE"),
        pytest.param({"PGSERVICE": "not-there"}, id="PGSERVICE that is not there"),
        pytest.param({"PGOPTIONS": "-c search_path=other"}, id="PGOPTIONS"),
        pytest.param({"PGTARGETSESSIONATTRS": "read-only"}, id="PGTARGETSESSIONATTRS"),
        pytest.param({"PGDATESTYLE": "SQL, DMY", "PGTZ": "Pacific/Kiritimati"}, id="PGTZ"),
    ],
)
def test_variable_of_libpq_decides_nothing(
    configured_project: Project,
    kite: KiteServer,
    cursor: Any,
    tmp_path: Path,
    variables: dict[str, str],
) -> None:
    kite.dump = LIST
    service_file = tmp_path / "pg_service.conf"
    service_file.write_text(SERVICE)
    cursor.execute("CREATE SCHEMA other")
    cursor.execute("SELECT now()")
    before = cursor.fetchone()[0]
    environment = {name: value.format(service_file) for name, value in variables.items()}
    result = configured_project.run("--dag", "1", **environment)
    assert (result.returncode, result.stderr) == (0, "")
    assert count_rows(cursor) == 2
    cursor.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'other'::regnamespace")
    assert cursor.fetchone()[0] == 0
    cursor.execute(
        "SELECT max(last_updated)::timestamp <= localtimestamp"
        " AND max(last_updated)::timestamp >= %s::timestamptz::timestamp"
        " FROM public.kite_instrument_master",
        (before,),
    )
    assert cursor.fetchone()[0]


def test_config_file_may_name_a_variable_of_libpq(
    configured_project: Project, kite: KiteServer, cursor: Any
) -> None:
    """It is the config file that decides then, for every connection of the run."""
    kite.dump = LIST
    path = configured_project.folder / "config" / "config.json"
    path.write_text(path.read_text().replace("${DB_NAME:-moneytree}", "${PGDATABASE}"))
    name = configured_project.environment.pop("DB_NAME")
    result = configured_project.run("--dag", "1", PGDATABASE=name)
    assert (result.returncode, result.stderr) == (0, "")
    assert count_rows(cursor) == 2
    assert configured_project.run("check", PGDATABASE=name).returncode == 0


@pytest.mark.skipif(libpq_version() < 160_000, reason="libpq 16 has the root certificate 'system'")
def test_variable_that_only_finds_certificates_is_heeded(configured_project: Project) -> None:
    result = configured_project.run("check", PGSSLROOTCERT="system")
    assert result.returncode == 1
    assert 'weak sslmode "prefer" may not be used with sslrootcert=system' in result.stdout


def test_variable_that_only_finds_the_password_file_is_heeded(
    configured_project: Project, tmp_path: Path
) -> None:
    password = configured_project.environment.pop("DB_PASSWORD")
    if configured_project.run("check", PGPASSFILE=str(tmp_path / "none")).returncode == 0:
        pytest.skip("this server lets everybody in without a password")
    file = tmp_path / "passwords"
    file.write_text(f"*:*:*:*:{password}\n")
    file.chmod(0o600)
    assert configured_project.run("check", PGPASSFILE=str(file)).returncode == 0
    assert configured_project.run("check", PGPASSWORD=password).returncode == 1
