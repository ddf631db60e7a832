"""The REST API under /api/v1/: routes, paging and errors of every app's views."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination
from rest_framework.routers import DefaultRouter
from rest_framework.views import exception_handler

__all__ = ["exception_handler", "urlpatterns"]


class NewestFirst(CursorPagination):
    """Pages that stay put while rows are added."""

    ordering = "-pk"


router = DefaultRouter()
urlpatterns = router.urls
