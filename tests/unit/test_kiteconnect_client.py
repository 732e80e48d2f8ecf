"""The ticker is left out of kiteconnect's import, and nobody misses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_import_of_the_wrapper_brings_no_ticker() -> None:
    code = "import sys, shared.utils.kite_client_wrapper; print('twisted' in sys.modules)"
    assert run(code) == "False"


def test_ticker_is_the_real_one_when_it_is_asked_for() -> None:
    code = (
        "import sys, shared.utils.kiteconnect_client\n"
        "from kiteconnect import KiteTicker\n"
        "import kiteconnect.ticker\n"
        "print(KiteTicker is kiteconnect.ticker.KiteTicker, 'twisted' in sys.modules)"
    )
    assert run(code) == "True True"


def test_package_that_was_imported_before_is_taken_as_it_is() -> None:
    code = (
        "import kiteconnect, shared.utils.kiteconnect_client as client\n"
        "print(client.KiteConnect is kiteconnect.KiteConnect, kiteconnect.KiteTicker.__name__)"
    )
    assert run(code) == "True KiteTicker"


def test_name_that_the_package_lacks_is_an_attribute_error() -> None:
    code = "import shared.utils.kiteconnect_client, kiteconnect; print(hasattr(kiteconnect, 'x'))"
    assert run(code) == "False"


def test_package_of_another_layout_is_imported_whole(tmp_path: Path) -> None:
    package = tmp_path / "kiteconnect"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from kiteconnect.ticker import KiteTicker, Extra\n"
        "from kiteconnect import exceptions\n"
        "class KiteConnect: pass\n"
    )
    (package / "exceptions.py").write_text("")
    (package / "ticker.py").write_text("class KiteTicker: pass\nclass Extra: pass\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import shared.utils.kiteconnect_client, kiteconnect\n"
        "print(kiteconnect.KiteTicker.__module__, kiteconnect.Extra.__name__)"
    )
    assert run(code) == "kiteconnect.ticker Extra"
