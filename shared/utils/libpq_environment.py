"""The environment as libpq finds it: nothing in it decides where a run goes (ruling 36)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What only finds certificates or passwords, and what only makes libpq refuse more servers.
_HARMLESS = ("PGSSL", "PGPASSFILE", "PGREQUIRE", "PGCHANNELBINDING", "PGGSS", "PGKRBSRVNAME")


@contextmanager
def without_libpq_variables(kept: tuple[str, ...] = _HARMLESS) -> Iterator[None]:
    """No PGHOSTADDR, PGOPTIONS, PGSERVICE or any other PG* but those that begin like `kept`.

    A service cannot be overruled by a parameter of the connection. They are back at the end: a
    config file may name any variable, ${PGHOST} too.
    """
    found = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith("PG") and not name.startswith(kept)
    }
    try:
        yield
    finally:
        os.environ.update(found)
