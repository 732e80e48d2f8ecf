"""What the sandbox has for DAG 8: an exchange with seven trades, on pages of four."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from urllib.parse import parse_qs

from sandbox.kite_faults import JSON_TYPE, Answer
from sandbox.kite_server import KiteServer, RecordedRequest


class _Exchange(KiteServer):
    def make_answer(self, request: RecordedRequest, body: bytes) -> Answer:
        """The page after the trade that the request names."""
        after = int(parse_qs(request.query)["after"][0])
        page = [
            {"trade_id": n, "symbol": "INFY", "price": 15.5, "quantity": n} for n in range(1, 8)
        ]
        answer = json.dumps({"trades": page[after : after + 4]}).encode()
        return Answer(200, answer, (("Content-Type", JSON_TYPE),))


@contextmanager
def open_part(kite: KiteServer, day: date) -> Iterator[dict[str, dict[str, str]]]:
    """The exchange, and the setting that leads to it."""
    with _Exchange(b"") as exchange:
        yield {"parameters": {"address": exchange.root}}
