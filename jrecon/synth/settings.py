"""A `SynthConfig` as JSON and back: to keep one in a file, and in the manifest of a database.

json.dumps(settings(SynthConfig()))
config_from({"height": 64, "view": {"distance_m": [2, 3]}})     # the rest by default
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any

from jrecon.synth.generate import SynthConfig


def settings(config: SynthConfig) -> dict[str, Any]:
    """All of a config as nested dictionaries of numbers, strings and lists."""
    return _plain(config)


def config_from(values: Mapping[str, Any]) -> SynthConfig:
    """The default config with some of its settings changed.

    Args:
      values: nested dictionaries with the names of the fields, as `settings` gives.

    Raises:
      ValueError: a setting that does not exist, or a value of another kind; the message names it.
    """
    return _changed(SynthConfig(), values, ())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | bool | int) else float(value)


def _fields(config: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(config)


def _changed(config: Any, values: Any, where: tuple[str, ...]) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{'.'.join(where) or 'settings'}: got {values!r}, need names and values.")
    kinds = typing.get_type_hints(type(config))
    changes = {}
    for name, value in values.items():
        path = (*where, str(name))
        if name not in kinds:
            near = difflib.get_close_matches(str(name), kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"need one of {list(kinds)}."
            raise ValueError(f"{'.'.join(path)}: there is no such setting; {hint}")
        old = getattr(config, name)
        nested = dataclasses.is_dataclass(old)
        changes[name] = _changed(old, value, path) if nested else _parse(kinds[name], value, path)
    return dataclasses.replace(config, **changes)


def _parse(kind: Any, value: Any, path: tuple[str, ...]) -> Any:
    """A JSON value as what the annotation of a field says; lists become tuples."""
    parts = typing.get_args(kind)
    if parts:
        some = parts[-1] is Ellipsis
        if isinstance(value, list | tuple) and (some or len(value) == len(parts)):
            parts = parts[:1] * len(value) if some else parts
            return tuple(_parse(one, entry, path) for one, entry in zip(parts, value, strict=True))
        needed = "a list" if some else f"a list of {len(parts)}"
    elif kind is str or kind is bool:
        if isinstance(value, kind):
            return value
        needed = "a string" if kind is str else "true or false"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and math.isfinite(value) and kind(value) == value:
            return kind(value)
        needed = "a whole number" if kind is int else "a finite number"
    raise ValueError(f"{'.'.join(path)}: got {value!r}, need {needed}.")
