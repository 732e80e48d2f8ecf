"""The floor: a bare COPY, of rows that are COPY's text already, into the table that is named."""

from __future__ import annotations

import io
import json
import sys

import psycopg2

from benchmarks.contenders.candle_steps import COLUMNS, INTERVAL, Answer, read_answers
from benchmarks.contenders.steps import Steps, database_arguments


def main() -> None:
    """Copy the answers' candles, those of each in a transaction."""
    steps = Steps()
    copy = f"COPY {sys.argv[1]} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT text, NULL '')"
    texts = [_to_text(answer) for answer in read_answers()]
    connection = psycopg2.connect(**database_arguments())
    with steps.step("read and store"):
        for text in texts:
            with connection, connection.cursor() as cursor:
                cursor.copy_expert(copy, io.BytesIO(text))
    connection.close()
    steps.write()


def _to_text(answer: Answer) -> bytes:
    lines = [
        "\t".join(map(str, (answer.instrument_id, INTERVAL, *candle, "")))
        for candle in json.loads(answer.body)["data"]["candles"]
    ]
    return "\n".join(lines).encode()


if __name__ == "__main__":
    main()
