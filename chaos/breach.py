"""What a run found wrong, in words."""

from __future__ import annotations


class Breach(Exception):
    """A promise that did not hold. The message says what was wanted and what was found."""


class CannotRun(Exception):
    """What a run needs and did not find; says nothing about the platform."""
