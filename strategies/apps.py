from django.apps import AppConfig
from django.core.checks import register


class StrategiesConfig(AppConfig):
    name = "strategies"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from strategies.checks import check_library  # noqa: PLC0415  # after the apps are loaded

        register(check_library)
