"""What the sandbox has for DAG 8: an API of its own with two pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sandbox.kite_server import KiteServer

TRADES = [{"trade_id": n, "symbol": "INFY", "price": 1500 + n, "quantity": n} for n in range(1, 8)]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        after = int(parse_qs(urlsplit(self.path).query)["after"][0])
        body = json.dumps({"trades": [t for t in TRADES if t["trade_id"] > after][:4]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@contextmanager
def open_part(kite: KiteServer, day: date) -> Iterator[Mapping[str, Any]]:
    """The API, and the setting that leads to it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"parameters": {"address": f"http://127.0.0.1:{server.server_port}"}}
        server.shutdown()
