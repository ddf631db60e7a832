from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register

from strategies.library import LIBRARY


class StrategiesConfig(AppConfig):
    name = "strategies"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from strategies.checks import check_library  # noqa: PLC0415  # after the apps are loaded

        if settings.STRATEGIES is not None:
            LIBRARY.load_folder(settings.STRATEGIES)
        LIBRARY.load_entry_points()
        register(check_library)
