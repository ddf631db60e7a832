from django.apps import AppConfig


class BacktestingConfig(AppConfig):
    name = "backtesting"
    verbose_name = "Backtests"
    default_auto_field = "django.db.models.BigAutoField"
