"""A signal ends the run also where the error that it raises gets lost, or becomes another one."""

from __future__ import annotations

import pytest

from shared import signals
from tests.conftest import AddDAG, Project

# As at the end of an HTTP session, where one SIGTERM in three was lost after a fetch.
DAG = """
import os, signal, threading

class Session:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass  # the handler runs here

def wait_for_ever():
    session = Session()
    del session
    threading.Event().wait(30)
    return "the signal was lost"
"""


each_signal = pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        pytest.param("SIGTERM", 143, "Terminated: ", id="SIGTERM"),
        pytest.param("SIGINT", 130, "Interrupted: ", id="Ctrl-C"),
        pytest.param("SIGHUP", 129, "Hung up, ", id="SIGHUP"),
    ],
)


@each_signal
def test_signal_while_an_object_is_cleaned_up(
    project: Project, add_dag: AddDAG, name: str, status: int, message: str
) -> None:
    add_dag(4, "wait_for_ever", DAG.format(name=name))
    result = project.run("--dag", "4")
    assert result.returncode == status
    assert result.stderr.startswith(f"ERROR: {message}")
    assert "Exception ignored" not in result.stderr


# As in a dataclass that is being made, where Python 3.11 makes a RuntimeError of any error.
DAG_OF_A_CLASS = """
import os, signal

class Field:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass

class Model:
    field = Field()

def make_a_class():
    return "the signal was lost"
"""


@each_signal
def test_signal_while_a_class_is_made(
    project: Project, add_dag: AddDAG, name: str, status: int, message: str
) -> None:
    add_dag(4, "make_a_class", DAG_OF_A_CLASS.format(name=name))
    result = project.run("--dag", "4")
    assert (result.returncode, result.stderr.count("\n")) == (status, 1)
    assert result.stderr.startswith(f"ERROR: {message}")


# As under a library that swallows every error.
DAG_THAT_SWALLOWS = """
import os, signal, threading

def swallow():
    try:
        os.kill(os.getpid(), signal.{name})
        threading.Event().wait(1)
    except BaseException:
        pass
    threading.Event().wait({seconds})
    return "the signal was lost"
"""


@each_signal
def test_signal_that_the_dag_swallows_before_it_ends(
    project: Project, add_dag: AddDAG, name: str, status: int, message: str
) -> None:
    add_dag(4, "swallow", DAG_THAT_SWALLOWS.format(name=name, seconds=0))
    result = project.run("--dag", "4")
    assert (result.returncode, result.stderr.count("\n")) == (status, 1)
    assert result.stderr.startswith(f"ERROR: {message}")


def test_signal_that_the_dag_swallows_before_it_waits_for_ever(
    project: Project, add_dag: AddDAG
) -> None:
    """It is raised again; soon enough for a run to end within ten seconds (ruling 26)."""
    add_dag(4, "swallow", DAG_THAT_SWALLOWS.format(name="SIGTERM", seconds=600))
    result = project.run("--dag", "4")
    assert (result.returncode, result.stderr.count("\n")) == (143, 1)
    assert signals._REPEAT_SECONDS <= 8


def test_handler_that_a_dag_leaves_behind(project: Project, add_dag: AddDAG) -> None:
    for number, code in (
        (4, "signal.signal(signal.SIGTERM, lambda *_: print('handled by another'))"),
        (5, "os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(30)"),
    ):
        add_dag(number, "go", f"import os, signal, threading\ndef go(): {code}\n")
    result = project.run("--dag", "4", "--dag", "5")
    assert (result.returncode, result.stderr.count("\n")) == (143, 1)
    assert "handled by another" not in result.stdout


def test_alarm_of_the_dags_own_is_no_signal_to_end(project: Project, add_dag: AddDAG) -> None:
    add_dag(
        4,
        "go",
        "import signal\ndef go():\n    signal.raise_signal(signal.SIGALRM)\n    return 'went on'\n",
    )
    result = project.run("--dag", "4")
    assert (result.returncode, result.stderr) == (0, "")
    assert "went on" in result.stdout


def test_other_errors_while_an_object_is_cleaned_up_are_shown(
    project: Project, add_dag: AddDAG
) -> None:
    add_dag(
        4,
        "clean_up",
        "class Session:\n    def __del__(self):\n        raise ValueError('in the clean-up')\n"
        "def clean_up():\n    Session()\n    return 'went on'\n",
    )
    result = project.run("--dag", "4")
    assert result.returncode == 0
    assert "went on" in result.stdout
    assert "ValueError: in the clean-up" in result.stderr
