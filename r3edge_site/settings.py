"""Django's settings, made of the environment (``r3edge_site/environment.py``)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from celery.schedules import schedule as every
from django.templatetags.static import static

from pipeline.topics import TASK_ROUTES
from r3edge_site.environment import Environment
from r3edge_site.schedule import SCHEDULE

BASE_DIR = Path(__file__).resolve().parent.parent
ENVIRONMENT = Environment()

SECRET_KEY = ENVIRONMENT.secret_key.get_secret_value()
ENCRYPTION_KEYS = tuple(key.get_secret_value() for key in ENVIRONMENT.encryption_keys)
DEBUG = ENVIRONMENT.debug
ALLOWED_HOSTS = ENVIRONMENT.allowed_hosts
CSRF_TRUSTED_ORIGINS = ENVIRONMENT.csrf_trusted_origins
KEEP_CANDLES_DAYS = ENVIRONMENT.keep_candles_days
KEEP_TRADES_DAYS = ENVIRONMENT.keep_trades_days
REDIS_URL = ENVIRONMENT.redis_url.get_secret_value()

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "rest_framework",
    "knox",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "pipeline",
    "exchanges",
    "marketdata",
    "strategies",
    "orders",
    "sessions.apps.SessionsConfig",
    "positions",
    "backtesting",
    "money",
    "r3edge_site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "r3edge_site.urls"
ASGI_APPLICATION = "r3edge_site.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": ENVIRONMENT.database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"  # who comes by the address of the form itself

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "r3edge_site.formats"

STATIC_URL = "static/"
# Served from where the apps keep them: no collectstatic between an installation and its first page.
WHITENOISE_USE_FINDERS = True

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ENVIRONMENT.is_https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ENVIRONMENT.is_https else None
SECURE_HSTS_SECONDS = 31_536_000 if ENVIRONMENT.is_https else 0
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "knox.auth.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    # In ASCII: JSON may carry half a surrogate pair, which a refusal that quotes it could not be encoded with otherwise.
    "UNICODE_JSON": False,
    "EXCEPTION_HANDLER": "r3edge_site.api.exception_handler",
    # Attempts are counted per address: behind the proxy that speaks HTTPS for us, its X-Forwarded-For tells them apart.
    "NUM_PROXIES": 1 if ENVIRONMENT.is_https else 0,
    "COERCE_DECIMAL_TO_STRING": True,
}
REST_KNOX = {"TOKEN_TTL": timedelta(days=90), "AUTH_HEADER_PREFIX": "Token"}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "r3edge",
    "DESCRIPTION": "Trading sessions: start, suspend, recover and stop them; read what they did and why.",
    "VERSION": "1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "r3edge_site.api.failures_documented",
    ],
    "ENUM_NAME_OVERRIDES": {
        "SideEnum": "orders.models.Side",
        "PositionSideEnum": "orders.models.PositionSide",
        "AccountStatusEnum": "exchanges.models.Account.Status",
        "VenueStatusEnum": "exchanges.gateway.VenueStatus",
        "SessionStatusEnum": "sessions.models.SessionStatus",
        "OrderStatusEnum": "orders.models.OrderStatus",
        "PositionStatusEnum": "positions.models.PositionStatus",
        "DiscrepancyKindEnum": "positions.models.DiscrepancyKind",
        "DiscrepancyStatusEnum": "positions.models.DiscrepancyStatus",
        "ResolutionEnum": "positions.models.Resolution",
        "MarketKindEnum": "exchanges.models.Market.Kind",
        "JobStatusEnum": "backtesting.models.JobStatus",
        "StudyKindEnum": "backtesting.models.StudyKind",
        "SearchMethodEnum": "backtesting.models.METHODS",
        "ObjectiveEnum": "backtesting.models.OBJECTIVE_CHOICES",
        "TrialStatusEnum": "backtesting.models.TrialStatus",
        "TimeframeEnum": "marketdata.tables.TIMEFRAMES",
        "SignalKindEnum": "strategies.models.SignalKind",
        "SourceKindEnum": "marketdata.api.SOURCE_KINDS",
    },
}

# Sources of candles beside the exchanges. The key stays wrapped: whoever prints it prints asterisks.
ALPHA_VANTAGE_KEY = ENVIRONMENT.alpha_vantage_key
ALPHA_VANTAGE_PER_MINUTE = ENVIRONMENT.alpha_vantage_per_minute
ALPHA_VANTAGE_PER_DAY = ENVIRONMENT.alpha_vantage_per_day
YAHOO_PER_MINUTE = ENVIRONMENT.yahoo_per_minute
YAHOO_CACHE_DIR = BASE_DIR / "var/yahoo"
CANDLE_FILES = ENVIRONMENT.candle_files
STRATEGIES = ENVIRONMENT.strategies

CELERY_BROKER_URL = (ENVIRONMENT.broker_url or ENVIRONMENT.redis_url).get_secret_value()
# Celery closes the database connection around every task and ignores CONN_MAX_AGE; kept, a hop costs less than half.
CELERY_DB_REUSE_MAX = 1_000_000
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_EXPIRES = None  # no result backend, so nothing of it to clean up
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ROUTES = TASK_ROUTES
CELERY_TASK_DEFAULT_QUEUE = "pipeline"
CELERY_TASK_CREATE_MISSING_QUEUES = True
# Late acknowledgement without requeueing on a lost worker: what a dead worker held is found by the sweeps, and a
# message that kills its worker does not come back for ever.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_TIME_LIMIT = 60  # prefork only, shorter than the visibility timeout
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False  # never in the middle of sending an order
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 5.0
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 300,
    "socket_timeout": 10,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 25,
}
# A bell that does not ring at once is left to its sweep: no caller waits long for a broker that is away.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {
    entry.task: {
        "task": entry.task,
        "schedule": every(entry.period),
        "options": {"expire_seconds": entry.expires_seconds, "queue": entry.queue},
    }
    for entry in SCHEDULE
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": ENVIRONMENT.log_level},
    "loggers": {
        # At DEBUG ccxt prints keys, signatures and passphrases.
        "ccxt": {"level": "INFO"},
        # At DEBUG it prints the address of every call, and Alpha Vantage's key is in it.
        "urllib3": {"level": "INFO"},
        # What fails in it is raised to us, and told by us.
        "yfinance": {"level": "CRITICAL"},
        "peewee": {"level": "INFO"},
        # A line for every doorbell received and answered says nothing that the journal does not.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "django_celery_beat": {"level": "WARNING"},
    },
}

UNFOLD: dict[str, Any] = {
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _: static("r3edge_site/favicon.svg")}],
    "SITE_TITLE": "r3edge",
    "SITE_HEADER": "r3edge",
    "SITE_SUBHEADER": "trading sessions",
    "SITE_SYMBOL": "candlestick_chart",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "r3edge_site.navigation.front_page",
    "SIDEBAR": {"navigation": "r3edge_site.navigation.sidebar"},
    "COLORS": {
        "primary": {
            "50": "240 253 250",
            "100": "204 251 241",
            "200": "153 246 228",
            "300": "94 234 212",
            "400": "45 212 191",
            "500": "20 184 166",
            "600": "13 148 136",
            "700": "15 118 110",
            "800": "17 94 89",
            "900": "19 78 74",
            "950": "4 47 46",
        }
    },
}
