"""Floor 9: settings, urls, Celery and the schedule: wires everything, decides nothing."""

from r3edge_site.celery import app as celery_app

__all__ = ["celery_app"]
