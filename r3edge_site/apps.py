from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "r3edge_site"
