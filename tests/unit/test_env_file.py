"""One variable of a `.env` changes; everything else stays byte for byte, whatever happens."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shared.config.env_file import reserved
from shared.exceptions import ConfigurationError
from tests.conftest import PROJECT

NAME = "KITE_ACCESS_TOKEN"
NEW = "n3wT0ken"
UNPRIVILEGED = 65534


def set_variable(path: Path, name: str, value: str) -> None:
    with reserved(path) as set_one:
        set_one(name, value)


# Any content

BLANKS = st.sampled_from(["", "", " ", "\t", "  "])
COMMENTS = st.sampled_from(["", "", " # the day's", "\t#x=y", ' # it\'s "so"', "  "])
VALUES = st.sampled_from(["old", "0ld.T0ken_-=", "a b", "a#b", "\u00f6ld", "$A", "#x"])
MORE_LINES = st.sampled_from(["", "\nsecond line\n", f"\r\n{NAME}=inner\r\n", " # no comment"])


@st.composite
def assignments(draw: st.DrawFn, names: st.SearchStrategy[str]) -> tuple[str, str, str]:
    """A variable in one of the ways that dotenv reads: what is left of its value, it, the rest."""
    export = draw(st.sampled_from(["", "export ", "export\t"]))
    left = f"{draw(BLANKS)}{export}{draw(names)}{draw(BLANKS)}="
    quote = draw(st.sampled_from(["", "'", '"']))
    if quote:
        return (
            f"{left}{draw(BLANKS)}{quote}",
            draw(VALUES) + draw(MORE_LINES),
            quote + draw(COMMENTS),
        )
    value = draw(VALUES)
    return left + ("" if value[0] == "#" else draw(BLANKS)), value, draw(COMMENTS)


OTHER_NAMES = st.sampled_from(["DB_PASSWORD", f"{NAME}_2", f"X_{NAME}", NAME.lower()])
OTHER_LINES = st.one_of(
    assignments(OTHER_NAMES).map("".join),
    st.sampled_from(["", "  ", "# a comment", f"#{NAME}=commented", "not a variable", "=x"]),
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A `.env`, and what it is after the change."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = draw(st.lists(OTHER_LINES, max_size=5))
    earlier = ["".join(draw(assignments(st.just(NAME)))) for _ in range(draw(st.integers(0, 2)))]
    before = "".join(line + end for line in draw(st.permutations(lines + earlier)))
    left, value, right = draw(assignments(st.just(NAME)))
    after = end.join(["", *draw(st.lists(OTHER_LINES, max_size=5))])
    old, new = (before + left + middle + right + after for middle in (value, NEW))
    return old.encode(), new.encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("env")


@given(change=changes())
def test_set_variable_that_is_there(folder: Path, change: tuple[bytes, bytes]) -> None:
    old, new = change
    path = folder / "known.env"
    path.write_bytes(old)
    set_variable(path, NAME, NEW)
    assert path.read_bytes() == new
    assert dotenv_values(path, interpolate=False)[NAME] == NEW


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Anything, with and without the variable: quotes that do not end, bytes that are no UTF-8."""
    line = st.one_of(
        OTHER_LINES,
        assignments(st.just(NAME)).map("".join),
        st.sampled_from(
            [NAME, f"export {NAME}", f"'{NAME}'=old", f"{NAME}= # here", "A='x", 'B="']
        ),
        st.text(max_size=20),
    )
    ends = st.sampled_from(["\n", "\r\n", "\r", ""])
    lines = draw(st.lists(st.tuples(line, ends), max_size=8))
    content = "".join(part for pair in lines for part in pair).encode("utf-8", "surrogatepass")
    position = draw(st.integers(0, len(content)))
    return content[:position] + draw(st.binary(max_size=3)) + content[position:]


def read_back(content: bytes) -> dict[str, str | None]:
    """As dotenv reads it."""
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return dict(dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False))


def count_equal(left: bytes, right: bytes) -> int:
    """How many bytes both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right)))


@given(content=contents())
@example(content=b"")
@example(content=b"\xef\xbb\xbf")
@example(content=f"A='x\n{NAME}=old\n".encode())
@example(content=f"{NAME}=old\nA='x\n{NAME}=inner\n'\n".encode())
def test_set_variable_in_any_file(folder: Path, content: bytes) -> None:
    """Every variable reads as before but the one, and one piece of the file at most has changed."""
    assume(not content.startswith(b"\xef\xbb\xbf\xef\xbb\xbf"))
    path = folder / "any.env"
    path.write_bytes(content)
    set_variable(path, NAME, NEW)
    new = path.read_bytes()
    before, after = read_back(content), read_back(new)
    assert after.pop(NAME) == NEW
    if NAME not in before:
        end = b"\r\n" if b"\r\n" in content else b"\n"
        is_open = not content.endswith((b"\n", b"\r")) and content not in (b"", b"\xef\xbb\xbf")
        assert new == content + (end if is_open else b"") + f"{NAME}={NEW}".encode() + end
    before.pop(NAME, None)
    assert after == before
    left = count_equal(content, new)
    right = count_equal(content[left:][::-1], new[left:][::-1])
    came = new[left : len(new) - right]
    assert len(came) <= len(f"\r\n{NAME}={NEW}\r\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"", b"T=v\n", id="empty"),
        pytest.param(b"A=1", b"A=1\nT=v\n", id="appended after an unfinished line"),
        pytest.param(b"A=1\r\n", b"A=1\r\nT=v\r\n", id="appended with CRLF"),
        pytest.param(b"T=old\n", b"T=v\n", id="plain"),
        pytest.param(b"T=old", b"T=v", id="no final newline"),
        pytest.param(b"T=\nA=1\n", b"T=v\nA=1\n", id="no value yet"),
        pytest.param(b"T\nA=1\n", b"T=v\nA=1\n", id="no equals sign"),
        pytest.param(b"T=1\nA=2\nT=3\n", b"T=1\nA=2\nT=v\n", id="twice, of which the last counts"),
        pytest.param(b"\n\n  export T = old  \n", b"\n\n  export T = v  \n", id="blanks, export"),
        pytest.param(b"T=old # why\r\nA=1\r\n", b"T=v # why\r\nA=1\r\n", id="comment, CRLF"),
        pytest.param(b"T= # why\n", b"T=v # why\n", id="comment in place of a value"),
        pytest.param(b"T='old'#why\n", b"T='v'#why\n", id="single quotes"),
        pytest.param(b'T="o\\"l\nd" # why\nA=1\n', b'T="v" # why\nA=1\n', id="value of two lines"),
        pytest.param(b'A="x\nT=inner\n"\n', b'A="x\nT=inner\n"\nT=v\n', id="inside another value"),
        pytest.param(b"#T=old\nT2=x\n", b"#T=old\nT2=x\nT=v\n", id="similar names"),
        pytest.param(b"\xef\xbb\xbfT=old\nA=1\n", b"\xef\xbb\xbfT=v\nA=1\n", id="BOM"),
        pytest.param(b"A=\xff\xfe\nT=old\n", b"A=\xff\xfe\nT=v\n", id="not UTF-8"),
    ],
)
def test_set_variable(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / ".env"
    path.write_bytes(old)
    set_variable(path, "T", "v")
    assert path.read_bytes() == new


# The file itself


def test_file_that_is_not_there_is_made_private(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        set_variable(tmp_path / ".env", NAME, NEW)
    finally:
        os.umask(previous)
    assert (tmp_path / ".env").read_text() == f"{NAME}={NEW}\n"
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_file_that_others_can_read_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    set_variable(path, NAME, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "secrets"
    target.write_text("A=1\n")
    link = tmp_path / ".env"
    link.symlink_to(Path("elsewhere") / "secrets")
    set_variable(link, NAME, NEW)
    assert link.is_symlink()
    assert target.read_text() == f"A=1\n{NAME}={NEW}\n"
    assert list((tmp_path / "elsewhere").iterdir()) == [target]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        pytest.param(0o600, 0o600, id="private"),
        pytest.param(0o640, 0o640, id="shared with a group"),
        pytest.param(0o644, 0o600, id="open to everybody"),
    ],
)
def test_owner_and_mode_stay_when_root_writes(tmp_path: Path, mode: int, kept: int) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(mode)
    os.chown(path, 1234, 2345)
    set_variable(path, NAME, NEW)
    state = path.stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 2345, kept)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_that_root_makes_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 2345)
    set_variable(tmp_path / ".env", NAME, NEW)
    state = (tmp_path / ".env").stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 2345, 0o600)


def test_change_that_is_made_to_the_file_meanwhile_stays(tmp_path: Path) -> None:
    """Somebody logs in for minutes."""
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    with reserved(path) as set_one:
        path.write_text("A=2\n" + "B=3\n" * 5000)
        set_one(NAME, NEW)
    assert path.read_text() == "A=2\n" + "B=3\n" * 5000 + f"{NAME}={NEW}\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", ["", "a b", "a#b", "a'b", 'a"b', "a\\b", "a$b", "a\nb", "a\x00b"])
def test_value_that_would_not_be_read_back(tmp_path: Path, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"{NAME}=old\n")
    with pytest.raises(ConfigurationError) as caught:
        set_variable(path, NAME, value)
    assert NAME in str(caught.value)
    assert not value or value not in str(caught.value)
    assert path.read_text() == f"{NAME}=old\n"


# What fails leaves it as it was


def in_child(script: str, *arguments: Path, uid: int | None = None) -> subprocess.Popen[str]:
    """A Python of its own, which may lose rights or die; `uid` is whom it becomes after its imports
    (the packages may lie where only root reads).
    """
    become = "" if uid is None else f"os.setgid({uid}); os.setuid({uid})\n"
    start = (
        "import os, resource, signal, sys, time\nfrom pathlib import Path\n"
        "from shared.config import env_file\nfrom shared.exceptions import ConfigurationError\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + become + script, *map(str, arguments)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TRY = f"""
try:
    with env_file.reserved(Path(sys.argv[1])) as set_one:
        set_one({NAME!r}, {NEW!r})
except ConfigurationError as exc:
    print(exc)
    raise SystemExit(2)
"""


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder that any user can get at, which a test's own is not."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="env-file-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_folder_that_cannot_be_written(reachable_folder: Path) -> None:
    path = reachable_folder / ".env"
    path.write_text(f"{NAME}=old\nA=1\n")
    path.chmod(0o666)
    reachable_folder.chmod(0o555)
    process = in_child(TRY, path, uid=UNPRIVILEGED if os.geteuid() == 0 else None)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "")
    assert output.startswith(".env cannot be written: Permission denied. It is as it was.")
    assert path.read_text() == f"{NAME}=old\nA=1\n"


RESERVE = TRY.replace(f"set_one({NAME!r}, {NEW!r})", "print('now Kite is asked')")


@pytest.mark.parametrize("script", [TRY, RESERVE], ids=["set", "reserve"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("owner", "mode"),
    [
        pytest.param((1234, UNPRIVILEGED), 0o666, id="of another user"),
        pytest.param((UNPRIVILEGED, 1234), 0o640, id="shared with another group"),
    ],
)
def test_file_that_its_owner_could_not_read_any_more_is_refused(
    reachable_folder: Path, script: str, owner: tuple[int, int], mode: int
) -> None:
    """The service runs as another user than the one who logs in."""
    path = reachable_folder / ".env"
    path.write_text("A=1\n")
    path.chmod(mode)
    os.chown(path, *owner)
    reachable_folder.chmod(0o777)
    process = in_child(script, path, uid=UNPRIVILEGED)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "")
    assert output.startswith(f".env belongs to uid {owner[0]}, gid {owner[1]}, who could not read")
    assert path.read_text() == "A=1\n"
    assert list(reachable_folder.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_group_that_cannot_be_kept_and_has_no_right_to_the_file(reachable_folder: Path) -> None:
    path = reachable_folder / ".env"
    path.write_text("A=1\n")
    path.chmod(0o600)
    os.chown(path, UNPRIVILEGED, 1234)
    reachable_folder.chmod(0o777)
    process = in_child(TRY, path, uid=UNPRIVILEGED)
    assert process.communicate(timeout=60) == ("", "")
    assert path.read_text() == f"A=1\n{NAME}={NEW}\n"
    assert path.stat().st_uid == UNPRIVILEGED


def test_reserved_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    with reserved(path):
        (room,) = tmp_path.iterdir()
        assert room.name.startswith(".env.")  # git ignores these
        assert room.stat().st_size > 0
    assert list(tmp_path.iterdir()) == []
    path.write_text("A=1\n")
    path.chmod(0o640)
    before = path.stat()
    with pytest.raises(KeyboardInterrupt), reserved(path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_disk_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    old = "A=" + "x" * 5000 + f"\n{NAME}=old\n"
    path.write_text(old)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    process = in_child(limit + TRY, path)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "")
    assert output.startswith(".env cannot be written: File too large. It is as it was.")
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "chown", "rename"])
def test_kill_in_between(tmp_path: Path, step: str) -> None:
    """SIGKILL at the named step: the file is the old one, and what may lie beside it is private."""
    path = tmp_path / ".env"
    old = f"A=1\n{NAME}=old\n"
    path.write_text(old)
    hook = (
        "def stop(event, arguments):\n"
        f"    if event == 'os.{step}':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(stop)\n"
    )
    if step == "fsync":  # no audit event
        hook = "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
    process = in_child(hook + TRY, path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == old
    for left in tmp_path.iterdir():
        if left != path:
            assert left.name.startswith(".env.")  # git ignores these
            assert stat.S_IMODE(left.stat().st_mode) == 0o600


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A writer that goes on and on is killed: a whole file with one of its values is there."""
    path = tmp_path / ".env"
    rest = "".join(f"VARIABLE_{number}={'x' * 50}\n" for number in range(200))
    path.write_text(f"{NAME}=start\n{rest}")
    script = (
        "for number in range(10**6):\n"
        "    with env_file.reserved(Path(sys.argv[1])) as set_one:\n"
        f"        set_one({NAME!r}, 'value%d' % number)\n"
        "    print(number, flush=True)\n"
    )
    for written in (1, 2, 5):
        process = in_child(script, path)
        assert process.stdout is not None
        for _ in range(written):
            process.stdout.readline()
        process.kill()  # somewhere in the next one
        process.communicate()
        first, _, others = path.read_text().partition("\n")
        assert int(first.removeprefix(f"{NAME}=value")) >= written - 1
        assert others == rest


def test_git_ignores_what_a_kill_can_leave() -> None:
    ignored = (PROJECT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored
    assert ".env.*" in ignored
    assert "!.env.example" in ignored


def test_git_ignores_the_passwords_of_airflow() -> None:
    """docs/airflow.md has AIRFLOW_HOME in the project's folder."""
    assert ".airflow/" in (PROJECT / ".gitignore").read_text().splitlines()
