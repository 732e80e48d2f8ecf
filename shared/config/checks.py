"""Merges the sources of a configuration, and checks the values against its fields."""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any

from shared.config.addresses import find_secrets
from shared.config.fields import REQUIRED, Field, HiddenValueError
from shared.config.logging_config import register_secrets
from shared.config.sources import merge, substitute
from shared.exceptions import ConfigurationError
from shared.program import command

logger = logging.getLogger(__name__)

_TOKEN = "KITE_ACCESS_TOKEN"  # noqa: S105 - its name; nobody writes it by hand
FAULTS = "The configuration has faults:"
_ABSENT = object()  # null is a value, too

Source = tuple[str, Mapping[str, Any]]  # a name, and the values to merge


def check(
    sources: Sequence[Source],
    fields: Mapping[str, Sequence[Field]],
    environment: Mapping[str, str],
    unreadable: Sequence[str] = (),
    *,
    warns: bool = True,
    keeps_unset: bool = False,
) -> dict[str, Any]:
    """Merge the sources, later ones over earlier ones, and give each field its value.

    `fields` stand by the name of the source that should have them; other values stay as they are.
    With `keeps_unset` so do variables that are not set. With `warns` the use of a default is a
    warning, unless the setting is an extra one.
    Raises ConfigurationError that names every fault, behind the files that are `unreadable`.
    """
    merged: dict[str, Any] = {}
    for _, given in sources:
        merge(merged, given)
    unset: dict[str, list[str]] = {}
    values: dict[str, Any] = substitute(merged, environment, unset)
    if keeps_unset:
        unset.clear()
    items = [(home, item) for home, its_items in fields.items() for item in its_items]
    faults = _name_unset(unset, [item for _, item in items], sources)
    for home, item in items:
        owner = _find_owner(sources, item.path) or home
        try:
            if not _is_unset(item, unset) and (remark := _convert(item, values)) and warns:
                logger.warning("%s: %s", owner, remark)
        except ValueError as exc:
            faults.append(f"{owner}: {exc}")
    if unreadable or faults:
        heading = [FAULTS] if faults else []
        raise ConfigurationError("\n".join([*unreadable, *heading, *dict.fromkeys(faults)]))
    return values


def find_unknown(values: Mapping[str, Any], paths: Sequence[str]) -> Iterator[str]:
    """What to say of each key, and each key of a section, that is in none of the fields' paths."""
    known: dict[str, set[str]] = {}
    for path in paths:
        section, _, name = path.partition(".")
        known.setdefault(section, set()).add(name)
    for section, value in values.items():
        if section not in known:
            yield _describe_unknown("", section, known)
        elif isinstance(value, Mapping) and "" not in known[section]:
            for name in value:
                if name not in known[section]:
                    yield _describe_unknown(f"{section}.", name, known[section])


def _describe_unknown(section: str, name: str, known: Collection[str]) -> str:
    near = get_close_matches(name.lower(), sorted(known), 1)
    hint = f' Did you mean "{section}{near[0]}"?' if near else ""
    return f'"{section}{name}" is not known, ignored.{hint}'


def _name_unset(
    unset: Mapping[str, list[str]], items: Iterable[Field], sources: Sequence[Source]
) -> list[str]:
    """A fault for each source in which fields want variables that are not set."""
    wanted: dict[str, list[str]] = {}
    for path, names in unset.items():
        if any(_is_unset(item, [path]) for item in items):
            wanted.setdefault(_find_owner(sources, path), []).extend(names)
    return [
        f"{source}: not set, or empty: {', '.join(dict.fromkeys(names))}. Set them in the "
        "environment or in .env in the project's root (.env.example explains each)."
        + (f" {_TOKEN} is set by: {command('login')}" if _TOKEN in names else "")
        for source, names in wanted.items()
    ]


def _is_unset(item: Field, unset: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{item.path}.") for path in unset)


def _find_owner(sources: Sequence[Source], path: str) -> str:
    """The name of the source that the value at `path` comes from; "" if there is none."""
    for name, values in reversed(sources):
        value: Any = values
        for part in path.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else value
        if value is not _ABSENT:
            return name
    return ""


def _convert(item: Field, values: dict[str, Any]) -> str:
    """Convert the field's value, or give it its default. Returns what to say of the default."""
    outer, _, name = item.path.rpartition(".")
    section = values.setdefault(outer, {}) if outer else values
    if not isinstance(section, dict):
        # Its value is not shown: a whole DSN in place of the section holds the password.
        raise ValueError(f"{outer}: expected an object {{...}}")
    if name not in section:
        if item.default is REQUIRED:
            raise ValueError(f"{item.path}: required, but missing")
        section[name] = deepcopy(item.default)
        default = json.dumps(item.default)
        return "" if item.is_extra else f"{item.path} is missing, using the default {default}"
    try:
        section[name] = item.convert(section[name])
    except ValueError as exc:
        is_hidden = item.is_secret or isinstance(exc, HiddenValueError)
        got = "" if is_hidden else f", got {json.dumps(section[name], default=str)}"
        raise ValueError(f"{item.path}: {exc}{got}") from exc
    if item.is_secret:
        value = section[name]
        for text in [value] if isinstance(value, str) else value:
            register_secrets(find_secrets(text))
    return ""
