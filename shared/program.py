"""How this program was called, so that a command in a message can be pasted.

A Python that is too old, or lacks the packages, has to read this: no syntax of after 3.8.
"""

import os
import re
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "execute_dags.py"
OLDEST_PYTHON = (3, 11)

# Of the packages in requirements-run.txt, those that are imported by another name.
_MODULES = {"psycopg2-binary": "psycopg2", "python-dotenv": "dotenv"}


def command(*words: str) -> str:
    """The command line that calls this program with `words`, as the user called it.

    Where the interpreter was called by its whole path, as systemd does, the script has its whole
    path too: a service's folder is not the reader's.
    """
    python = _called_python()
    script = sys.argv[0] if Path(sys.argv[0]).name == PROGRAM else str(PROJECT_ROOT / PROGRAM)
    if Path(python).is_absolute():
        script = str(Path(script).absolute())
    return shlex.join([python, script, *words])


def module_command(module: str) -> str:
    """The command line that runs a module of this project, the shortest from where the user is."""
    python = _called_python()
    if os.sep in python:
        python = _nearest(Path(python).absolute(), PROJECT_ROOT)
    words = shlex.join([python, "-m", module])
    return words if Path.cwd() == PROJECT_ROOT else _from_anywhere(words)


def command_from_anywhere(*words: str) -> str:
    """The command line that calls Python with `words` in the project, wherever it is pasted."""
    return _from_anywhere(shlex.join([_nearest(Path(sys.executable), PROJECT_ROOT), *words]))


def _from_anywhere(words: str) -> str:
    return f"cd {shlex.quote(str(PROJECT_ROOT))} && {words}"


def _called_python() -> str:
    """The interpreter as it was typed; its path where that leads nowhere."""
    typed = sys.orig_argv[0]
    return typed if shutil.which(typed) else sys.executable


def find_lack() -> str:
    """What this interpreter lacks to run the program, and the command to help it; "" if nothing."""
    is_old = sys.version_info[:2] < OLDEST_PYTHON
    names = [] if is_old else _read_names(PROJECT_ROOT / "requirements-run.txt")
    lacking = [name for name in names if find_spec(_MODULES.get(name, name)) is None]
    if not (is_old or lacking):
        return ""
    fault = "lacks " + ", ".join(lacking)
    if is_old:
        version, oldest = (".".join(map(str, v)) for v in (sys.version_info[:3], OLDEST_PYTHON))
        fault = f"is Python {version}, and {oldest} or later is needed"
    return f"{PROGRAM}: {sys.executable} {fault}. {_find_way_out(is_old)}"


def _find_way_out(is_old: bool) -> str:
    venv = PROJECT_ROOT / ".venv"
    python = venv / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != venv.resolve():
        return "Run this instead: " + shlex.join([_nearest(python), *sys.argv])
    if is_old:
        return f"Make {_nearest(venv)} with a later one, as README.md says."
    install = ["-m", "pip", "install", "-r", _nearest(PROJECT_ROOT / "requirements-run.txt")]
    if sys.prefix != sys.base_prefix:  # a virtual environment
        return "Install them: " + shlex.join([sys.executable, *install])
    make = shlex.join([sys.executable, "-m", "venv", _nearest(venv)])
    return f"Install them: {make} && {shlex.join([_nearest(python), *install])}"


def _read_names(requirements: Path) -> "list[str]":
    if not requirements.exists():  # a copy of the code alone: its imports tell
        return []
    return re.findall(r"^([A-Za-z][\w-]*)", requirements.read_text(encoding="utf-8"), re.MULTILINE)


def _nearest(path: Path, start: "Path | None" = None) -> str:
    return min(str(path), os.path.relpath(path, start), key=len)
