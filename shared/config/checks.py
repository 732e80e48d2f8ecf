"""Checks the values of a configuration against its fields. What is found is returned as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from shared.config.fields import REQUIRED, ROOT_SECTIONS, Field, HiddenValueError
from shared.config.logging_config import register_secrets
from shared.config.sources import Source, merge


@dataclass
class Checked:
    """Values merged and converted, what is wrong with them, and which defaults were needed."""

    values: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # files, whose values are not among these
    defaults: list[str] = field(default_factory=list)  # of settings that should have been given


def check(sources: Sequence[Source], fields: Sequence[Field]) -> Checked:
    """Merge the sources, later ones over earlier ones, and give each field its value.

    Only the given fields are judged: what else the sources hold is handed on as it is.
    """
    checked = Checked()
    for source in sources:
        merge(checked.values, source.values)
    unset = _find_unset(sources, fields)
    for name in dict.fromkeys(name for name, _, _ in unset):
        variables = (item for owner, _, found in unset if owner == name for item in found)
        checked.faults.append(
            f"{name}: not set, or empty: {', '.join(dict.fromkeys(variables))}. Set them in the "
            "environment or in .env in the project's root (.env.example explains each)."
        )
    for path in sorted({path for item in fields for path in _sections(item.path)}):
        parent, name = _descend(checked.values, path)
        if not isinstance(parent.setdefault(name, {}), dict):
            # Its value is not shown: a whole DSN in place of the section holds the password.
            checked.faults.append(f"{_owner(sources, path)}: {path}: expected an object {{...}}")
            parent[name] = {}
    for item in fields:
        if not any(_belongs(path, item.path) for _, path, _ in unset):
            _check_field(item, checked, sources)
    return checked


def find_unknown(
    values: Mapping[str, Any], paths: Sequence[str], prefix: str = ""
) -> Iterator[str]:
    """What to say of each key, at any depth, that is in none of the fields' `paths`."""
    for key, value in values.items():
        path = prefix + key
        if "." in key or not any(_belongs(known, path) for known in paths):
            inside = (known.removeprefix(prefix) for known in paths if known.startswith(prefix))
            names = sorted({name.split(".")[0] for name in inside})
            near = get_close_matches(key.lower(), names, 1)
            hint = f' Did you mean "{prefix}{near[0]}"?' if near else ""
            yield f'"{path}" is not known, ignored.{hint}'
        elif isinstance(value, Mapping) and path not in paths:
            yield from find_unknown(value, paths, f"{path}.")


def _find_unset(
    sources: Sequence[Source], fields: Sequence[Field]
) -> list[tuple[str, str, Sequence[str]]]:
    """Source, path and variables of the values of these fields that want a variable not set.

    One that a later source overrules is not wanted.
    """
    return [
        (source.name, path, names)
        for position, source in enumerate(sources, 1)
        for path, names in source.missing.items()
        if any(_belongs(path, item.path) for item in fields)
        and not any(later.has(path) for later in sources[position:])
    ]


def _belongs(path: str, outer: str) -> bool:
    """Whether `path` is `outer` or within it."""
    return path == outer or path.startswith(f"{outer}.")


def _sections(path: str) -> Iterator[str]:
    """The objects that `path` is in, from the outermost on: "a.b.c" is in "a" and "a.b"."""
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _descend(values: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds what is at `path`, and its key there."""
    *sections, name = path.split(".")
    for section in sections:
        values = values[section]
    return values, name


def _check_field(item: Field, checked: Checked, sources: Sequence[Source]) -> None:
    """Convert the field's value, or give it its default, and note what is wrong."""
    section, name = _descend(checked.values, item.path)
    owner = f"{_owner(sources, item.path)}: {item.path}"
    if name not in section:
        if item.default is REQUIRED:
            checked.faults.append(f"{owner}: required, but missing")
            return
        section[name] = deepcopy(item.default)
        if not item.is_extra:
            default = json.dumps(item.default)
            checked.defaults.append(f"{owner} is missing, using the default {default}")
        return
    value = section[name]
    try:
        section[name] = item.convert(value)
    except ValueError as exc:
        is_hidden = item.is_secret or isinstance(exc, HiddenValueError)
        got = "" if is_hidden else f", got {json.dumps(value, default=str)}"
        checked.faults.append(f"{owner}: {exc}{got}")
    else:
        if item.is_secret:
            register_secrets([section[name]])


def _owner(sources: Sequence[Source], path: str) -> str:
    """The source of the value at `path`; where none has it, the config.json that should."""
    for source in reversed(sources):
        if source.has(path):
            return source.name
    files = [source for source in sources if source.file and source.file.stem == "config"]
    position = 0 if path.split(".")[0] in ROOT_SECTIONS else -1
    return (files or sources)[position].name
