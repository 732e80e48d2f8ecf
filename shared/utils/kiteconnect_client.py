"""kiteconnect's HTTP client, without its ticker until somebody asks for it.

`import kiteconnect` also imports its websocket ticker, and with it twisted and autobahn: half of
its time, and 22 MB.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

_TICKER = "kiteconnect.ticker"


def _import_without_ticker() -> Any:
    if "kiteconnect" in sys.modules:
        return sys.modules["kiteconnect"]
    placeholder = ModuleType(_TICKER)
    vars(placeholder)["KiteTicker"] = None
    sys.modules[_TICKER] = placeholder
    try:
        package = importlib.import_module("kiteconnect")
    except ImportError:  # a version that is laid out in another way: take it as it is
        del sys.modules[_TICKER]
        return importlib.import_module("kiteconnect")
    del sys.modules[_TICKER]
    del vars(package)["KiteTicker"]
    vars(package)["__getattr__"] = _import_ticker  # PEP 562
    return package


def _import_ticker(name: str) -> Any:
    if name != "KiteTicker":
        raise AttributeError(f"module 'kiteconnect' has no attribute {name!r}")
    return importlib.import_module(_TICKER).KiteTicker


_package = _import_without_ticker()
KiteConnect: Any = _package.KiteConnect
kite_exceptions: Any = _package.exceptions
