"""Reading answers to values, and nothing else: this project's way, and kiteconnect's."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from kiteconnect import KiteConnect

from benchmarks.contenders.candle_steps import INTERVAL, read_answers
from benchmarks.contenders.steps import Steps
from dag_2_import_candles_from_kite.answers import read_answer
from dag_2_import_candles_from_kite.intervals import INTERVALS, Request


def main() -> None:
    """Read each answer once."""
    steps = Steps()
    client = KiteConnect("key")
    answers = list(read_answers())
    first, *_, last = json.loads(answers[0].body)["data"]["candles"]
    begin, end = (datetime.fromisoformat(candle[0]) for candle in (first, last))
    end += timedelta(minutes=1)
    with steps.step("this project"):
        for _, token, body in answers:
            request = Request(token, INTERVALS[INTERVAL], begin, end)
            assert not read_answer(body, request, complete_until=end).rejected
    with steps.step("kiteconnect"):
        for _, _, body in answers:
            client._format_historical(json.loads(body)["data"])
    steps.write()


if __name__ == "__main__":
    main()
