"""The project's settings on the test services, with a broker database for each parallel test process."""

import os

from r3edge_site.settings import *  # noqa: F403
from r3edge_site.settings import CELERY_BROKER_URL, REDIS_URL

_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _own_database(url: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{_NUMBER + 1}"


REDIS_URL = _own_database(REDIS_URL)
CELERY_BROKER_URL = _own_database(CELERY_BROKER_URL)
# One quick hash instead of a slow one: tests log in hundreds of times.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
