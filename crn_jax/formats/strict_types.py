"""Turns JSON into dataclasses without turning one type into another: "20" is no number, and 2.5 no whole number."""

import functools
from typing import Any, get_args, get_origin

import cattrs

_KINDS: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def strict_converter(**options: Any) -> cattrs.Converter:
    """Returns a converter that takes plain values and lists as they are, and refuses those of another type."""
    converter = cattrs.Converter(**options)
    for kind in _KINDS:
        converter.register_structure_hook(kind, functools.partial(_plain, kind))
    converter.register_structure_hook_factory(
        lambda kind: get_origin(kind) is tuple, lambda kind: functools.partial(_tuple, converter, get_args(kind))
    )
    return converter


def _plain(kind: type, value: Any, _: Any) -> Any:
    if type(value) not in _KINDS[kind]:
        raise TypeError(f"{value!r} is no {kind.__name__}"[:200])
    return kind(value)


def _tuple(converter: cattrs.Converter, kinds: tuple[Any, ...], value: Any, _: Any) -> tuple:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is no list"[:200])
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{len(kinds)} values are needed, got {len(value)}")
    return tuple(converter.structure(item, kind) for kind, item in zip(kinds, value))
