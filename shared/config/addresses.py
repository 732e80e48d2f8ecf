"""The addresses of receivers, as apprise takes them, and what in them is secret."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

# apprise separates them so, too.
_BETWEEN = re.compile(r"[\s,;]+(?=[A-Za-z0-9]{1,32}://)")
_SHORTEST_TOKEN = 8  # characters


def split_addresses(text: str) -> list[str]:
    """The addresses in a text: blanks, commas or semicolons stand between them."""
    return [part for part in _BETWEEN.split(text.strip()) if part]


def find_secrets(text: str) -> Iterator[str]:
    """What nobody is to see of a secret: itself, and of addresses their passwords and tokens.

    A token may be the user, the host or any other part of an address, and libraries show it
    without the rest. A part of 8 characters or more with a digit or a capital is taken for one.
    """
    yield text
    for address in split_addresses(text) if "://" in text else ():
        yield address
        rest = address.partition("://")[2]
        authority = re.split(r"[/?#]", rest)[0]
        user, _, host = authority.rpartition("@")
        passwords = user.partition(":")[2:]
        tokens = [part for part in re.split(r"[/?&=:@,;#]", rest) if _is_token(part)]
        named_hosts = [name for name in [host.partition(":")[0]] if "." in name]
        for secret in {*passwords, *tokens}.difference(named_hosts):
            yield from {secret, unquote(secret)}


def _is_token(part: str) -> bool:
    return len(part) >= _SHORTEST_TOKEN and re.search("[0-9A-Z]", part) is not None
