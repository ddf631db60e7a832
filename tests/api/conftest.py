"""Traders at the API: two ordinary ones and a superuser, each with a client of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from tests.factories import make_user

ROOT = "/api/v1/"


@dataclass(frozen=True)
class Api:
    """The API as one user, or nobody, sees it."""

    user: User | None = None

    @property
    def user_id(self) -> int | None:
        return self.user.pk if self.user else None

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        client = APIClient()
        if self.user is not None:
            client.force_authenticate(self.user)
        verb = getattr(client, method)
        if method == "get":
            return verb(ROOT + path, query)
        if body is None:
            return verb(ROOT + path)
        # Our own JSON: the test client's would refuse to send what a hostile one does.
        return verb(ROOT + path, json.dumps(body), content_type="application/json")

    def get(self, path: str, **query: Any) -> Any:
        return self.call("get", path, **query)

    def post(self, path: str, body: Any = None) -> Any:
        return self.call("post", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self.call("patch", path, body)

    def ids(self, path: str, **query: Any) -> list[Any]:
        """The ids on the first page of a list."""
        answer = self.get(path, **query)
        assert answer.status_code == 200, answer.content
        return [row["id"] for row in answer.json()["results"]]


@pytest.fixture
def alice(db: None) -> Api:
    """The trader whom the factories make everything for."""
    return Api(make_user("alice"))


@pytest.fixture
def bob(db: None) -> Api:
    return Api(make_user("bob"))


@pytest.fixture
def root(db: None) -> Api:
    return Api(make_user("root", is_superuser=True, is_staff=True))


@pytest.fixture
def nobody(db: None) -> Api:
    return Api()
