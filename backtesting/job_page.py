"""What the admin's pages of backtests and of studies have in common: who may do what with a job."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_permission_codename
from django.http import HttpRequest

from backtesting.models import LIVE_JOBS
from pipeline.pages import LongPage


class JobPage(LongPage):
    """A page of jobs: whoever may change one may command it, and what goes on is not deleted."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "add")

    def has_command_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "change")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return (obj is None or obj.status not in LIVE_JOBS) and self._may(request, "delete")

    def _may(self, request: HttpRequest, action: str) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.{get_permission_codename(action, self.opts)}")
