"""The frame: the front page, signing in, and the pages of what the platform stands on."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from knox.models import AuthToken

from pipeline.models import Event
from pipeline.pages import plain, signed
from positions.models import Position
from r3edge_site.traders import GROUP, PERMISSIONS, traders_group_ensure
from sessions.models import SessionStatus
from tests.admin.conftest import signed_in, url_of, words_of
from tests.factories import make_account, make_config, make_open_position, make_session, make_user


@pytest.mark.django_db
def test_signing_in_is_asked_for_and_works() -> None:
    make_user("carol", is_staff=True)
    client = Client()

    asked = client.get(reverse("admin:index"), follow=True)
    answered = client.post(asked.request["PATH_INFO"], {"username": "carol", "password": "correct horse"})

    assert "r3edge" in words_of(asked)
    assert answered.status_code == 302
    assert client.get(reverse("admin:index")).status_code == 200


@pytest.mark.django_db
def test_who_signs_in_by_the_address_of_the_form_lands_on_the_front_page() -> None:
    make_user("carol", is_staff=True)

    answered = Client().post(reverse("admin:login"), {"username": "carol", "password": "correct horse"})

    assert answered["Location"] == reverse("admin:index")


@pytest.mark.django_db
def test_someone_who_is_no_member_of_staff_is_not_let_in() -> None:
    client = signed_in(make_user("dave"))

    assert client.get(reverse("admin:index")).status_code == 302


def test_the_front_page_adds_up_ones_own_trading(desk: Client, alice: User, bob: User) -> None:
    account = make_account(alice)
    position = make_open_position(make_session(account, name="mine"))
    make_session(account, make_config(alice), name="asleep", status=SessionStatus.SUSPENDED)
    bobs = make_open_position(make_session(make_account(bob), name="of bob"))
    for one, pnl in ((position, "4.863"), (bobs, "1000")):
        Position.objects.filter(pk=one.pk).update(unrealized_pnl=Decimal(pnl), valued_at=timezone.now())
    Event.objects.create(topic="alerts", key=account.pk, owner_id=alice.pk, data={"alert": "ACCOUNT_PAUSED"})
    Event.objects.create(topic="alerts", key=bobs.account_id, owner_id=bob.pk, data={"alert": "ORDER_UNKNOWN"})

    words = words_of(desk.get(reverse("admin:index")))

    assert "Active sessions 1 1 more that are tracked" in words
    assert "Positions held 1 Unrealized +4.863" in words
    assert "alert ACCOUNT_PAUSED" in words
    assert "of bob" not in words
    assert "ORDER_UNKNOWN" not in words


def test_the_sidebar_offers_a_trader_what_traders_may_see(desk: Client) -> None:
    shown = [
        item["title"]
        for group in desk.get(reverse("admin:index")).context["sidebar_navigation"]
        for item in group["items"]
        if item["has_permission"]
    ]

    assert shown == [
        "Sessions", "Groups of sessions", "Strategy configurations", "Accounts", "Halts", "Positions", "Discrepancies",
        "Orders", "Fills", "Funding", "Signals", "Valuations", "Equity", "Balances", "Journal", "Backtests", "Studies",
        "Exchanges", "Markets", "Quotes", "Feeds", "Backfills", "Gaps", "Quarantine", "Revisions", "API tokens",
    ]  # fmt: skip


def test_the_journal_is_narrowed_by_topic_session_and_key(desk: Client, alice: User) -> None:
    for topic, key, session_id in (("command", 7, 7), ("orders", 3, None), ("positions", 7, 7), ("command", 8, 8)):
        Event.objects.create(topic=topic, key=key, session_id=session_id, owner_id=alice.pk)

    def found(**filters: str) -> list[tuple[str, int]]:
        rows = desk.get(url_of(Event, "changelist"), filters).context["cl"].result_list
        return [(row.topic, row.key) for row in rows]

    assert found(topic="command") == [("command", 8), ("command", 7)]
    assert found(session_id="7") == [("positions", 7), ("command", 7)]
    assert found(topic="command", key="7") == [("command", 7)]
    assert found(session_id="seven") == []
    assert found(session_id="9" * 40) == []


def test_a_token_is_ended_by_its_owner_and_made_nowhere_here(desk: Client, alice: User, bob: User) -> None:
    mine, token = AuthToken.objects.create(alice)
    bobs, _ = AuthToken.objects.create(bob)

    page = desk.get(url_of(AuthToken, "changelist"))
    made = desk.post(url_of(AuthToken, "add"), {"user": alice.pk})
    desk.post(url_of(AuthToken, "changelist"), {"action": "end_selected", "_selected_action": [mine.pk, bobs.pk]})

    assert token not in page.content.decode()
    assert bobs.digest not in page.content.decode()
    assert made.status_code == 403
    assert list(AuthToken.objects.values_list("user__username", flat=True)) == ["bob"]


def test_a_superuser_makes_a_trader(root: User) -> None:
    traders_group_ensure()
    client = signed_in(root)

    client.post(
        url_of(User, "add"),
        {"username": "erin", "usable_password": "true", "password1": "long and odd 71", "password2": "long and odd 71"},
    )
    erin = User.objects.get(username="erin")
    now = timezone.now()
    client.post(
        url_of(User, "change", erin.pk),
        {
            "username": "erin", "is_active": "on", "is_staff": "on", "groups": [Group.objects.get(name=GROUP).pk],
            "date_joined_0": f"{now:%Y-%m-%d}", "date_joined_1": f"{now:%H:%M:%S}",
        },
    )  # fmt: skip

    erin.refresh_from_db()
    assert erin.check_password("long and odd 71")
    assert signed_in(erin).get(reverse("admin:trading_sessions_tradingsession_add")).status_code == 200


def test_periodic_tasks_are_shown_and_edited_by_superusers(root: User) -> None:
    schedule = IntervalSchedule.objects.create(every=5, period="seconds")
    task = PeriodicTask.objects.create(name="orders.sweep", task="orders.sweep", interval=schedule)
    client = signed_in(root)

    page = client.get(url_of(PeriodicTask, "change", task.pk))
    listed = client.get(url_of(PeriodicTask, "changelist"))

    assert page.status_code == 200
    assert "orders.sweep" in words_of(listed)


@pytest.mark.parametrize("name", ["auth_user", "auth_group", "django_celery_beat_periodictask"])
def test_what_the_platform_stands_on_is_closed_to_traders(desk: Client, name: str) -> None:
    assert desk.get(reverse(f"admin:{name}_changelist")).status_code == 403


@pytest.mark.django_db
def test_traders_may_do_exactly_what_is_listed() -> None:
    traders_group_ensure()
    traders_group_ensure()

    granted = Permission.objects.filter(group__name=GROUP).values_list("content_type__app_label", "codename")
    wanted = {(label, f"{verb}_{model}") for (label, model), verbs in PERMISSIONS.items() for verb in verbs}
    assert set(granted) == wanted
    assert not any(
        verb in ("add", "change", "delete")
        for (_, model), verbs in PERMISSIONS.items()
        for verb in verbs
        if model in ("order", "fill", "funding", "position", "signal", "event", "valuation", "balance", "exchange")
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("50000.000000000000000000", "50000"), ("0.020000000000000000", "0.02"), ("1E+5", "100000"), ("0E-18", "0"),
        ("0.000000081200000000", "0.0000000812"), ("49880.333333333333333333", "49880.3333333"), ("-1.50", "-1.5"),
    ],
)  # fmt: skip
def test_a_number_is_written_as_a_person_would(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text


def test_what_a_trader_wrote_is_text_and_never_markup(desk: Client, alice: User) -> None:
    session = make_session(make_account(alice), name="<script>alert(1)</script>", status_reason="<b>bold</b>")

    page = desk.get(reverse("admin:trading_sessions_tradingsession_change", args=[session.pk])).content.decode()
    front = desk.get(reverse("admin:index")).content.decode()

    assert "<script>alert(1)" not in page + front
    assert "<b>bold" not in page + front
    assert signed(Decimal(1), "<i>") == '<span class="text-green-700 dark:text-green-400">+1 &lt;i&gt;</span>'
