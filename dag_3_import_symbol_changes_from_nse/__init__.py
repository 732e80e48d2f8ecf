"""DAG 3: NSE's official list of symbol changes into `nse_symbol_change`."""

from collections.abc import Iterator
from pathlib import Path

from dag_3_import_symbol_changes_from_nse.symbol_changes import SYMBOL_CHANGES, parse
from shared.config.fields import Field, address
from shared.exceptions import APIError
from shared.feed import Feed, Payload, Run
from shared.program import command
from shared.run import retry_policy
from shared.utils.http_source import HttpSource
from shared.utils.operation import operation
from shared.utils.strict_session import Source

__all__ = ["FEED"]


def fetch(run: Run) -> Iterator[Payload]:
    """NSE's list of today, whole."""
    url = run.parameters["address"]
    nse = HttpSource(url, source=Source("NSE", url, "parameters.address"), retry=retry_policy(run))
    with operation("fetch symbol changes", run.durations):
        try:
            payload = nse.load(parse)
        except APIError as exc:
            by_file = command("--dag", str(FEED.dag_id), "--from-file", "symbolchange.csv")
            raise type(exc)(
                f"{exc} NSE may refuse programs, or leave them without an answer: then save {url} "
                f"with a browser, and load the file: {by_file}"
            ) from exc
    yield payload


FEED = Feed(
    folder=Path(__file__).resolve().parent,
    title="symbol changes",
    source="NSE",
    table=SYMBOL_CHANGES,
    fetch=fetch,
    parse=parse,
    fields=(Field("parameters.address", address),),
    archive_name="nse_symbol_changes.csv",
)
