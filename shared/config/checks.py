"""Checks the values of a configuration against its fields. What is found is returned as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import starmap
from typing import Any

from shared.config.fields import REQUIRED, Field, HiddenValueError
from shared.config.logging_config import register_secrets
from shared.config.sources import merge, substitute


@dataclass(frozen=True)
class Source:
    """The values of a JSON file, or those that code merges over the files."""

    name: str
    values: Mapping[str, Any]


@dataclass
class Checked:
    """Values merged and converted, what is wrong with them, and which defaults were needed."""

    values: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)  # of settings that should have been given


def check(
    sources: Sequence[Source],
    fields: Mapping[str, Sequence[Field]],
    environment: Mapping[str, str],
    *,
    needs_variables: bool = True,
) -> Checked:
    """Merge the sources, later ones over earlier ones, and give each field its value.

    `fields` stand by the name of the source that should have them. What else the sources hold is
    handed on as it is. Without `needs_variables` those that are not set stay as they are written.
    """
    merged: dict[str, Any] = {}
    for source in sources:
        merge(merged, source.values)
    found: dict[str, list[str]] = {}
    checked = Checked(substitute(merged, environment, found))
    unset = found if needs_variables else {}
    missing: dict[str, list[str]] = {}  # variables by source
    for home, items in fields.items():
        for item in items:
            inside = [path for path in unset if f"{path}.".startswith(f"{item.path}.")]
            for path in inside:
                missing.setdefault(_owner(sources, path), []).extend(unset[path])
            if not inside:
                _check_field(item, _owner(sources, item.path) or home, checked)
    faults = dict.fromkeys(checked.faults)  # that of a section is found for each field in it
    checked.faults = [*starmap(_describe_missing, missing.items()), *faults]
    return checked


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


def _describe_missing(source: str, names: Sequence[str]) -> str:
    return (
        f"{source}: not set, or empty: {', '.join(dict.fromkeys(names))}. Set them in the "
        "environment or in .env in the project's root (.env.example explains each)."
    )


def _owner(sources: Sequence[Source], path: str) -> str:
    """The name of the source that the value at `path` comes from; "" if there is none."""
    for source in reversed(sources):
        value: Any = source.values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else value
        if value is not None:
            return source.name
    return ""


def _check_field(item: Field, owner: str, checked: Checked) -> None:
    """Convert the field's value, or give it its default, and note what is wrong."""
    outer, _, name = item.path.rpartition(".")
    section = checked.values.setdefault(outer, {}) if outer else checked.values
    what = f"{owner}: {item.path}"
    if not isinstance(section, dict):
        # Its value is not shown: a whole DSN in place of the section holds the password.
        checked.faults.append(f"{owner}: {outer}: expected an object {{...}}")
    elif name in section:
        try:
            section[name] = item.convert(section[name])
        except ValueError as exc:
            is_hidden = item.is_secret or isinstance(exc, HiddenValueError)
            got = "" if is_hidden else f", got {json.dumps(section[name], default=str)}"
            checked.faults.append(f"{what}: {exc}{got}")
        else:
            register_secrets([section[name]] if item.is_secret else [])
    elif item.default is REQUIRED:
        checked.faults.append(f"{what}: required, but missing")
    else:
        section[name] = deepcopy(item.default)
        if not item.is_extra:
            default = json.dumps(item.default)
            checked.defaults.append(f"{what} is missing, using the default {default}")
