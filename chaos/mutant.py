"""What a mutant is, and how one is applied: names of the product patched in a process, constraints dropped from a database.

A name that is gone is an error: a mutant that spoils nothing would prove nothing.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from django.db import connection

Change = Callable[[Any], Any]


class NoSuchName(Exception):
    """The product has no such name any more; the mutant must be brought up to date."""


@dataclass(frozen=True, slots=True)
class Patch:
    """``place`` is a module, or ``module:Class``; ``change`` makes the new value of its ``name`` from the old."""

    place: str
    name: str
    change: Change


@dataclass(frozen=True, slots=True)
class Drop:
    """A constraint or index that is gone; ``again`` makes it anew."""

    gone: str
    again: str


@dataclass(frozen=True)
class Mutant:
    """``misses`` is what the build lacks, in words; ``caught_by`` are the scenarios of which each must fail with it."""

    name: str
    misses: str
    caught_by: tuple[str, ...]
    patches: tuple[Patch, ...] = ()
    drops: tuple[Drop, ...] = ()
    second: str = ""


MUTANTS: dict[str, Mutant] = {}


def apply(name: str) -> None:
    """Spoil this process, for good. Raises NoSuchName for a mutant, or a name of the product, that is not there."""
    if name not in MUTANTS:
        raise NoSuchName(f"wanted one of {', '.join(MUTANTS)}, was {name!r}")
    for patch in MUTANTS[name].patches:
        owner, old = _found(patch)
        setattr(owner, patch.name, patch.change(old))


def drop(name: str) -> None:
    """Drop what the mutant has dropped, in the database of this process; again is no harm."""
    with connection.cursor() as cursor:
        for one in MUTANTS[name].drops:
            cursor.execute(one.gone)


@contextmanager
def applied(name: str) -> Iterator[None]:
    """Spoiled inside the block only; the database must be empty of what breaks its constraints at the end."""
    mutant = MUTANTS[name]
    before = [(*_found(patch), patch) for patch in mutant.patches]
    apply(name)
    drop(name)
    try:
        yield
    finally:
        for owner, old, patch in reversed(before):
            setattr(owner, patch.name, old)


def restore(name: str) -> None:
    """Make the dropped constraints anew, on tables that are empty."""
    with connection.cursor() as cursor:
        for one in MUTANTS[name].drops:
            cursor.execute(one.again)


def _found(patch: Patch) -> tuple[Any, Any]:
    module, _, class_name = patch.place.partition(":")
    owner = importlib.import_module(module)
    if class_name:
        owner = getattr(owner, class_name, None) or _missing(patch)
    # Of a class its own namespace: a method it inherits would be patched for good.
    return owner, vars(owner)[patch.name] if patch.name in vars(owner) else _missing(patch)


def _missing(patch: Patch) -> Any:
    raise NoSuchName(f"wanted {patch.name} in {patch.place}, it is gone")


def mutant(name: str, misses: str, *caught_by: str, drops: tuple[Drop, ...] = (), second: str = "") -> None:
    """Make a mutant without patches."""
    MUTANTS[name] = Mutant(name, misses, caught_by, (), drops, second)


def patched(name: str, place: str, attribute: str) -> Callable[[Change], Change]:
    """Add a patch to a mutant: the function below makes the new value from the old."""

    def add(change: Change) -> Change:
        known = MUTANTS[name]
        MUTANTS[name] = replace(known, patches=(*known.patches, Patch(place, attribute, change)))
        return change

    return add


def set_to(value: Any) -> Change:
    """Whatever it was, it is ``value``."""
    return lambda _: value


def wrapped(wrapper: Callable[..., Any]) -> Change:
    """``wrapper`` is called with the original and its arguments in its place."""

    def change(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        return call

    return change
