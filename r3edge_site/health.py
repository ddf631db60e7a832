"""``/health``: this process answers. ``/ready``: it can also reach what it needs."""

from __future__ import annotations

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse


def health(request: HttpRequest) -> JsonResponse:
    """200 as long as the process lives."""
    return JsonResponse({"status": "ok"})


def ready(request: HttpRequest) -> JsonResponse:
    """200 when database and Redis answer, 503 with the name of what does not."""
    checks = {"database": _database(), "redis": _redis()}
    is_ready = all(checks.values())
    return JsonResponse(
        {name: "ok" if is_ok else "unreachable" for name, is_ok in checks.items()}, status=200 if is_ready else 503
    )


def _database() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _redis() -> bool:
    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
