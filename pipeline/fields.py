"""Column types that every floor shares."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db import models

# A whole number that the column below still holds.
LARGEST = Decimal(10) ** 18 - 1


class ExactField(models.DecimalField):  # type: ignore[type-arg]  # django-stubs' generics cannot be given at run time
    """Money, a price or a quantity: ``numeric(36,18)``, exact on the way in and out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("max_digits", 36)
        kwargs.setdefault("decimal_places", 18)
        super().__init__(*args, **kwargs)
