"""Run blocks of Python in one namespace, then evaluate expressions in it. Needs no package.

Standard input is a JSON object: `blocks`, texts that run in their order; `hidden`, modules that
shall look as if they were not installed; `expressions`. Standard output is their values, in JSON;
of what JSON does not know it has the repr().
"""

import contextlib
import importlib.machinery
import json
import sys


class Hiding(importlib.machinery.PathFinder):
    """Finds what is installed, but for some modules."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in cls.hidden:
            return None
        return super().find_spec(fullname, path, target)


def main() -> None:
    given = json.load(sys.stdin)
    Hiding.hidden = frozenset(given["hidden"])
    sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
    namespace: dict = {"__name__": "page"}
    with contextlib.redirect_stdout(sys.stderr):
        for number, block in enumerate(given["blocks"], 1):
            exec(compile(block, f"block {number}", "exec"), namespace)
        values = [eval(each, namespace) for each in given["expressions"]]
    json.dump(values, sys.stdout, default=repr)


main()
