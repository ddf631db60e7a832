from django.apps import AppConfig


class SessionsConfig(AppConfig):
    name = "sessions"
    label = "trading_sessions"  # "sessions" is the label of Django's own app
    verbose_name = "Trading sessions"
    default_auto_field = "django.db.models.BigAutoField"
