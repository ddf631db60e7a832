"""The web server's door."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r3edge_site.settings")

application = get_asgi_application()
