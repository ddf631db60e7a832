"""What the views of every app share: exact decimals, rows by owner, pages that stay put, ids that cannot overflow.

Views raise what their service raises; ``r3edge_site/api.py`` turns it into an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, TypeVar, cast

import django_filters
from django import forms
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import models
from rest_framework import serializers, viewsets
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination

from pipeline.fields import ExactField

M = TypeVar("M", bound=models.Model)

# What a bigint column holds at most: a larger number would reach the database and fail there.
LARGEST_ID = 2**63 - 1
FLAGS = {"true": True, "1": True, "false": False, "0": False}
_EXACT = Context(prec=60)


def exact_text(value: Decimal, places: int = 18) -> str:
    """``value`` in full and without trailing zeros ("0.1"), cut to ``places`` decimals where a division left more."""
    if cast(int, value.as_tuple().exponent) < -places:
        value = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN, context=_EXACT)
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


class ExactDecimalField(serializers.DecimalField):
    """Money, a price or a quantity: a string both ways, never a float."""

    def __init__(self, max_digits: int = 36, decimal_places: int = 18, **kwargs: Any) -> None:
        super().__init__(max_digits=max_digits, decimal_places=decimal_places, **kwargs)

    def to_representation(self, value: Any) -> str:
        return exact_text(value if isinstance(value, Decimal) else Decimal(str(value)))


class RowSerializer(serializers.ModelSerializer[M]):
    """A row as JSON, its exact columns as strings."""

    serializer_field_mapping = {**serializers.ModelSerializer.serializer_field_mapping, ExactField: ExactDecimalField}


class NoInput(serializers.Serializer[Any]):
    """A command without a body."""


class NewestFirst(CursorPagination):
    """Pages that stay put while rows are added."""

    ordering: str | tuple[str, ...] = "-pk"
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200

    def paginate_queryset(self, queryset: Any, request: Any, view: Any = None) -> Any:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, DjangoValidationError):
            # A cursor that nobody was given: what it says is no value of the column that the pages go by.
            raise NotFound(self.invalid_cursor_message) from None


class Rows(viewsets.GenericViewSet[M]):
    """Rows by id, a page at a time."""

    pagination_class: type[CursorPagination] | None = NewestFirst
    # Whatever stands for an id reaches the view, so that its 404 looks like every other.
    lookup_value_regex = "[^/]+"


class OwnedRows(Rows[M]):
    """Each trader reaches their own rows only, superusers all; somebody else's row is as unknown as no row."""

    owner_path = "owner"

    def get_queryset(self) -> models.QuerySet[M]:
        rows = super().get_queryset()
        user = self.request.user
        if getattr(self, "swagger_fake_view", False) or (user.is_authenticated and user.is_superuser):
            return rows
        return rows.filter(**{self.owner_path: user.pk})


class OwnedRelated(serializers.PrimaryKeyRelatedField[M]):
    """The id of a row of one's own; another trader's id reads as unknown."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, float):  # JSON reads 1e999 as infinity, and no query takes that
            self.fail("incorrect_type", data_type=type(data).__name__)
        return super().to_internal_value(data)

    def __init__(self, owner_path: str = "owner", **kwargs: Any) -> None:
        self.owner_path = owner_path
        super().__init__(**kwargs)

    def get_queryset(self) -> models.QuerySet[M]:
        rows = cast("models.QuerySet[M]", super().get_queryset())
        user = self.context["request"].user
        return rows if user.is_superuser else rows.filter(**{self.owner_path: user.pk})


class FlagField(forms.CharField):
    """``true`` or ``false``; anything else is refused rather than passed over."""

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value) or ""
        if text and text.lower() not in FLAGS:
            raise forms.ValidationError("wanted true or false, was %(text)r", params={"text": text[:60]})
        return FLAGS.get(text.lower())


class FlagFilter(django_filters.Filter):  # type: ignore[misc]  # django-filter is untyped
    """Rows by a yes or no."""

    field_class = FlagField


class Filters(django_filters.FilterSet):  # type: ignore[misc]
    """What the rows of a list can be narrowed by."""

    FILTER_DEFAULTS = {
        **django_filters.FilterSet.FILTER_DEFAULTS,
        models.BooleanField: {"filter_class": FlagFilter},
    }


class IdFilter(django_filters.NumberFilter):  # type: ignore[misc]
    """Rows by the id of a related row. An id of nobody's, or of somebody else's, finds nothing."""

    field_class = forms.IntegerField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("min_value", -LARGEST_ID)
        kwargs.setdefault("max_value", LARGEST_ID)
        super().__init__(*args, **kwargs)

    def get_max_validator(self) -> None:
        """No validator of its own: the form field has the limits."""
        return


def checked(check: Callable[[], Any]) -> Any:
    """What ``check`` returns; a model's ValidationError becomes the serializer's, field by field."""
    try:
        return check()
    except DjangoValidationError as error:
        raise serializers.ValidationError(validation_detail(error)) from error


def validation_detail(error: DjangoValidationError) -> dict[str, list[str]]:
    """A model's ValidationError in the serializers' shape, whole-row problems under ``non_field_errors``."""
    # Not by DRF's own translation: it fails on a message with a percent sign in it.
    if not hasattr(error, "error_dict"):
        return {"non_field_errors": error.messages}
    return {"non_field_errors" if name == "__all__" else name: texts for name, texts in error.message_dict.items()}
