"""Exchanges, accounts and what was read from them. Keys go in and are never shown again."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget

from exchanges import services
from exchanges.ccxt_gateway import VENUES
from exchanges.credentials import Credentials, UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance, Exchange, Market, Quote, RiskProfile
from pipeline.pages import (
    BADGES,
    SECTION_ROWS,
    BaseStackedInline,
    ExactFormField,
    Fact,
    Page,
    ReadOnlyPage,
    Sections,
    SupervisedPage,
    badge,
    batch,
    button,
    link,
    list_url,
    moment,
    plain,
    table,
)

SECRETS = ("api_key", "secret", "passphrase")


def read_now(request: HttpRequest, exchange: Exchange) -> str:
    return f"read the clock and {services.exchange_sync(exchange.pk)} markets"


def read_balances(request: HttpRequest, account: Account) -> str:
    return f"read the balances of {len(services.balances_refresh(account.pk))} currencies"


class ExchangeForm(forms.ModelForm):  # type: ignore[type-arg]
    ccxt_id = forms.ChoiceField(
        label="Speaks", choices=[(name, name) for name in sorted(VENUES)], widget=UnfoldAdminSelectWidget,
        help_text="The ccxt class that speaks its language.",
    )  # fmt: skip


@admin.register(Exchange)
class ExchangePage(SupervisedPage):
    form = ExchangeForm
    refusals = (ExchangeUnavailable,)
    list_display = ("name", "ccxt_id", "is_enabled", "venue_time", "markets_synced_at")
    list_filter = ("is_enabled",)
    search_fields = ("name",)
    fields = ("name", "ccxt_id", "base_url", "is_enabled", "clock_speed")
    actions_detail = ("read_now",)
    actions = ("read_now_selected",)

    read_now = button(
        "Read now", read_now, icon="sync",
        question="Asks the exchange for its clock and for every market it has. This may take some seconds.",
    )  # fmt: skip
    read_now_selected = batch("Read markets and clock now", read_now)

    @admin.display(description="its time")
    def venue_time(self, exchange: Exchange) -> str:
        return moment(services.venue_now(exchange)) if exchange.clock_anchor_at else "-"

    def sections(self, request: HttpRequest, exchange: Exchange) -> Sections:
        markets = exchange.markets.filter(is_active=True).count()
        return Sections(
            [
                Fact("Its time", self.venue_time(exchange), f"read at {moment(exchange.clock_anchor_at)}"),
                Fact("Clock speed", f"{exchange.clock_speed:g} ×"),
                Fact("Active markets", link_to_markets(exchange, markets), f"read at {moment(exchange.markets_synced_at)}"),
                Fact("Accounts", Account.objects.filter(exchange=exchange).count()),
            ]
        )
