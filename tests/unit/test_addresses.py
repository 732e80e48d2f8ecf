"""What of an address is secret, wherever a library shows a part of it."""

from __future__ import annotations

import pytest

from shared.config.addresses import find_secrets
from shared.config.logging_config import redact, register_secrets


@pytest.mark.parametrize(
    ("address", "said", "shown"),
    [
        pytest.param("tgram://123456789:AbC-dEf_12/55667788", "AbC-dEf_12", "***", id="token"),
        pytest.param("slack://T1JJ3T3L2/A1B/x", "/T1JJ3T3L2/", "/***/", id="token as host"),
        pytest.param("pover://user@Aq7Z9kk2/x", "at Aq7Z9kk2", "at ***", id="host after user"),
        pytest.param("mailto://me:pw%2F1@gmail.com", "'pw/1' pw%2F1", "'***' ***", id="password"),
        pytest.param("mailto://me:hush@mail.example1.com", "mail.example1.com", None, id="host"),
        pytest.param("json://127.0.0.1:8000/x", "127.0.0.1", None, id="address"),
        pytest.param("https://hc.io/stock-ingestion", "/opt/stock-ingestion", None, id="word"),
        pytest.param("a://b?token=Abcdefgh&c=1", "Abcdefgh", "***", id="query"),
        pytest.param(
            "a://Host-One/, b://Host-Two/", "a://Host-One/ b://Host-Two/", "*** ***", id="two"
        ),
        pytest.param("p@ss:word", "ss:word p@ss:word", "ss:word ***", id="no address"),
    ],
)
def test_parts_of_an_address_that_are_shown(address: str, said: str, shown: str | None) -> None:
    register_secrets(find_secrets(address))
    assert redact(said) == (said if shown is None else shown)
