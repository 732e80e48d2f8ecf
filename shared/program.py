"""How this program was called, so that a command in a message can be pasted."""

import os
import shlex
import shutil
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "execute_dags.py"


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
        python = str(Path(python).absolute())
        python = min(python, os.path.relpath(python, PROJECT_ROOT), key=len)
    is_there = Path.cwd() == PROJECT_ROOT
    change = "" if is_there else f"cd {shlex.quote(str(PROJECT_ROOT))} && "
    return change + shlex.join([python, "-m", module])


def _called_python() -> str:
    """The interpreter as it was typed; its path where that leads nowhere."""
    typed = sys.orig_argv[0]
    return typed if shutil.which(typed) else sys.executable
