"""The equity curve in the admin: a chart on the pages of sessions and accounts, and whose points are whose."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from money.equity_admin import chart
from money.models import EquityPoint
from tests.admin.conftest import url_of, words_of
from tests.factories import make_account, make_session

MINUTE = timedelta(minutes=1)


def make_points(*values: str, **subject: object) -> list[EquityPoint]:
    """A point a minute of these values, the last one now."""
    now = timezone.now()
    return [
        EquityPoint.objects.create(
            at=now - (len(values) - 1 - index) * MINUTE, equity=Decimal(value), peak=9, currency="USDT", **subject
        )
        for index, value in enumerate(values)
    ]


def test_session_and_account_show_what_they_are_worth_and_how_it_came(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))
    make_points("-1", "1", "-3.5", session=session)
    make_points("100", "97.5", account=session.account)

    pages = [
        desk.get(url_of(type(row), part, row.pk))
        for row in (session, session.account)
        for part in ("change", "sections")
    ]

    assert [re.findall(r'polyline points="([^"]*)"', page.content.decode()) for page in pages] == [
        ["0.0,17.8 80.0,0.0 160.0,40.0"],
        ["0.0,17.8 80.0,0.0 160.0,40.0"],
        ["0.0,0.0 160.0,40.0"],
        ["0.0,0.0 160.0,40.0"],
    ]
    assert all("-3.5 USDT" in words_of(page) for page in pages[:2])
    assert all("97.5 USDT" in words_of(page) for page in pages[2:])


def test_a_curve_without_points_is_not_shown(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice))

    page = desk.get(url_of(type(session), "change", session.pk))

    assert page.status_code == 200
    assert "polyline" not in page.content.decode()


def test_one_point_is_no_line_and_what_never_moved_is_a_flat_one() -> None:
    one, other = (
        EquityPoint(at=timezone.now() + minute * MINUTE, equity=Decimal(5), currency="USDT") for minute in (0, 1)
    )

    assert chart([one]) == ""
    assert 'points="0.0,20.0 160.0,20.0"' in chart([one, other])


def test_points_of_accounts_and_of_oneself_are_one_s_own(desk: Client, alice: User, bob: User) -> None:
    for owner in (alice, bob):
        account = make_account(owner, name=f"account of {owner.username}")
        make_points("1", account=account)
        make_points("2", owner=owner)
        make_points("3", session=make_session(account))

    page = desk.get(url_of(EquityPoint, "changelist"))

    shown = page.context["cl"].result_list
    assert sorted(row.equity for row in shown) == [1, 2, 3]
    assert "account of bob" not in words_of(page)
    assert "all of alice" in words_of(page)


def test_a_drawdown_is_a_percentage_of_an_account_and_an_amount_of_a_session(desk: Client, alice: User) -> None:
    account = make_account(alice)
    EquityPoint.objects.create(
        account=account, currency="USDT", at=timezone.now(), equity=98, peak=102, drawdown=Decimal(4) / 102
    )
    session = make_session(account)
    EquityPoint.objects.create(session=session, currency="USDT", at=timezone.now(), equity=-4, peak=1, drawdown=5)

    page = words_of(desk.get(url_of(EquityPoint, "changelist")))

    assert "102 3.92 %" in page
    assert "1 5 " in page
