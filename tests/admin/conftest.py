"""Traders and a superuser at the admin's door, and what they read there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.messages import get_messages
from django.db.models import Model
from django.template.response import TemplateResponse
from django.test import Client
from django.urls import reverse

from r3edge_site.traders import GROUP, traders_group_ensure
from tests.factories import make_user


def make_trader(name: str) -> User:
    # An earlier test may have emptied the table; what migrating has made is there already, and making it is slow.
    if not Group.objects.filter(name=GROUP, permissions__isnull=False).exists():
        traders_group_ensure()
    trader = make_user(name)
    trader.is_staff = True
    trader.save()
    trader.groups.add(Group.objects.get(name=GROUP))
    return trader


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


@pytest.fixture
def alice(db: None) -> User:
    return make_trader("alice")


@pytest.fixture
def bob(db: None) -> User:
    return make_trader("bob")


@pytest.fixture
def root(db: None) -> User:
    return make_user("root", is_staff=True, is_superuser=True)


@pytest.fixture
def desk(alice: User) -> Client:
    """Alice's browser."""
    return signed_in(alice)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are answered without being written out, which takes half a second of a form with a hundred fields: for who asks
    what the form found, and not how that reads."""
    monkeypatch.setattr(TemplateResponse, "rendered_content", "")


def url_of(model: type[Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def errors_of(response: Any) -> dict[str, list[str]]:
    """What the form on the page complains of, by field."""
    return {name: list(texts) for name, texts in form_of(response).errors.items()}


def form_of(response: Any) -> Any:
    """The form on the page."""
    return response.context_data["adminform"].form


def told(response: Any) -> list[str]:
    """The messages that the next page will show."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def words_of(response: Any) -> str:
    """The page as it reads: no tags, single spaces."""
    text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", response.content.decode(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)
