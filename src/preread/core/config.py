"""Dataclasses <-> YAML, with `--set a.b=c` on top and a hint for every misspelt key.

A recipe is a YAML file of one dataclass. Validation is pydantic's; this file only turns its findings into the
project's errors and adds the dotted overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from preread.core.errors import UsageError

C = TypeVar("C")


def build(kind: type[C], values: Mapping[str, Any], overrides: Iterable[str] = ()) -> C:
    """An instance of the dataclass `kind` from nested mappings, then `a.b=c` overrides.

    Raises:
        UsageError: an unknown key (with the nearest known one), a value of the wrong type, or a bad override.
    """
    tree = overridden(values, overrides)
    _refuse_unknown_keys(kind, tree, path="")
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise UsageError(
            expected=f"{where} to satisfy: {first['msg']}",
            got=repr(first["input"]),
            consequence=f"No {kind.__name__} was made.",
            remedy=f"Correct {where} in the recipe or the override.",
        ) from error


def overridden(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of nested mappings with `a.b=c` overrides on top.

    Raises:
        UsageError: a bad override.
    """
    tree: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_plain(dict(values)))) or {}
    for override in overrides:
        _set(tree, override)
    return tree


def load(kind: type[C], path: Path, overrides: Iterable[str] = ()) -> C:
    """An instance of the dataclass `kind` from a YAML file.

    Raises:
        UsageError: no such file, not YAML, or as in `build`.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            expected=f"a YAML recipe at {path}",
            got=str(error).replace("\n", " "),
            consequence="Nothing was started.",
            remedy="Check the path; the recipes that ship with the project are in recipes/.",
        ) from error
    if not isinstance(values, dict | None):
        raise UsageError(
            expected=f"keys and values in {path}",
            got=f"a {type(values).__name__}",
            consequence="Nothing was started.",
            remedy="The recipes that ship with the project are in recipes/.",
        )
    return build(kind, values or {}, overrides)


def dump(config: Any) -> str:
    """The YAML text of a dataclass instance; `build(type(config), yaml.safe_load(text))` gives an equal one."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _set(tree: dict[str, Any], override: str) -> None:
    dotted, equals, raw = override.partition("=")
    if not equals or not dotted:
        raise UsageError(
            expected="an override of the form a.b=value",
            got=repr(override),
            consequence="Nothing was started.",
            remedy="Write, for example, --set training.steps=100.",
        )
    *parents, leaf = dotted.split(".")
    try:
        value = yaml.safe_load(raw)
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[leaf] = value
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise UsageError(
            expected=f"a value that fits {dotted}",
            got=f"{override!r}",
            consequence="Nothing was started.",
            remedy="Write, for example, --set training.steps=100.",
        ) from error


def _refuse_unknown_keys(kind: Any, tree: Mapping[str, Any], path: str) -> None:
    known = [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    for key, value in tree.items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            raise UsageError(
                expected=f"a key of {kind.__name__} ({', '.join(known)})",
                got=f"{path}{key}",
                consequence="Nothing was started.",
                remedy=f"Did you mean {path}{near[0]}?" if near else f"Remove {path}{key}.",
            )
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown_keys(hints[key], value, f"{path}{key}.")
