"""The equity curve over REST: the last point of each stretch, page by page of time, and one's own only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from money.models import EquityPoint
from sessions.models import TradingSession
from tests.api.conftest import Api
from tests.factories import make_account, make_session

MINUTE = timedelta(minutes=1)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def session(alice: Api) -> TradingSession:
    return make_session()


def make_points(*minutes: float, currency: str = "USDT", **subject: Any) -> None:
    """A point so many minutes after noon for each, worth as much."""
    EquityPoint.objects.bulk_create(
        EquityPoint(at=NOON + minute * MINUTE, equity=Decimal(minute), peak=Decimal(100), currency=currency, **subject)
        for minute in minutes
    )


def curve(api: Api, **query: Any) -> dict[str, Any]:
    answer = api.get("equity", **query)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def values(found: dict[str, Any]) -> list[int]:
    return [int(point["equity"]) for point in found["results"]]


def at(minute: float) -> str:
    return (NOON + minute * MINUTE).isoformat().replace("+00:00", "Z")


def test_a_curve_is_told_point_by_point_oldest_first(alice: Api, session: TradingSession) -> None:
    EquityPoint.objects.create(
        session=session, at=NOON, currency="USDT", equity=Decimal("-101"), realized_pnl=Decimal("-1"),
        unrealized_pnl=Decimal("-100"), fees=Decimal("1.5"), funding=Decimal("0.5"), exposure=Decimal("900.10"),
        peak=Decimal(19), drawdown=Decimal(120),
    )  # fmt: skip
    make_points(5, session=session)

    found = curve(alice, session=session.pk)

    assert found["results"][0] == {
        "at": at(0), "equity": "-101", "realized_pnl": "-1", "unrealized_pnl": "-100", "fees": "1.5", "funding": "0.5",
        "exposure": "900.1", "peak": "19", "drawdown": "120",
    }  # fmt: skip
    assert values(found) == [-101, 5]
    assert (found["currency"], found["until"], found["is_thinned"]) == ("USDT", at(5), False)
    assert (found["previous"], found["next"]) == (None, None)


def test_where_there_are_more_points_than_asked_for_the_last_of_each_stretch_is_told(
    alice: Api, session: TradingSession
) -> None:
    make_points(0, 1, 2, 3, 5, 7, 10, 11, session=session)

    # Stretches of two minutes: 1 and 2; 3; 5; 7; 10.
    found = curve(alice, session=session.pk, since=at(0), until=at(10), points=5)

    assert values(found) == [2, 3, 5, 7, 10]
    assert found["is_thinned"] is True


@pytest.mark.parametrize(("points", "expected"), [(1, [9]), (2, [4, 9]), (3, [2, 5, 9]), (10, list(range(10)))])
def test_no_more_points_are_told_than_asked_for(
    alice: Api, session: TradingSession, points: int, expected: list[int]
) -> None:
    make_points(*range(10), session=session)

    assert values(curve(alice, session=session.pk, points=points)) == expected


def test_the_pages_of_a_curve_are_stretches_of_time_side_by_side(alice: Api, session: TradingSession) -> None:
    make_points(*range(1, 7), session=session)

    middle = curve(alice, session=session.pk, since=at(2), until=at(4), points=7)
    before, after = (alice.get(middle[way].split("/api/v1/")[1]).json() for way in ("previous", "next"))

    assert (values(before), values(middle), values(after)) == ([1, 2], [3, 4], [5, 6])
    assert (before["since"], before["until"], after["since"], after["until"]) == (at(0), at(2), at(4), at(6))
    assert (before["previous"], after["next"]) == (None, None)
    assert "points=7" in middle["next"]


def test_an_owner_s_curve_is_of_one_currency(alice: Api) -> None:
    make_points(1, 2, owner=alice.user)
    make_points(3, owner=alice.user, currency="EUR")

    newest, dollars = curve(alice, owner="me"), curve(alice, owner="me", currency="USDT")

    assert (newest["currency"], values(newest)) == ("EUR", [3])
    assert (dollars["currency"], values(dollars)) == ("USDT", [1, 2])
    assert values(curve(alice, owner="me", currency="XYZ")) == []


def test_each_curve_is_its_subject_s_own(alice: Api, session: TradingSession) -> None:
    other = make_session(make_account(name="other"))
    make_points(1, session=session)
    make_points(2, account=session.account)
    make_points(3, owner=alice.user)
    make_points(4, session=other)
    make_points(5, account=other.account)

    queries: list[dict[str, Any]] = [
        {"session": session.pk}, {"account": session.account_id}, {"owner": "me"}, {"session": other.pk},
        {"account": other.account_id},
    ]  # fmt: skip
    assert [values(curve(alice, **query)) for query in queries] == [[1], [2], [3], [4], [5]]


def test_who_asks_for_what_came_since_gets_nothing_until_there_is_something(
    alice: Api, session: TradingSession
) -> None:
    make_points(1, session=session)
    nothing = curve(alice, session=session.pk, since=at(1))
    make_points(2, session=session)
    news = curve(alice, session=session.pk, since=at(1))

    assert (values(nothing), nothing["next"]) == ([], None)
    assert (values(news), news["until"]) == ([2], at(2))


def test_a_subject_without_a_point_has_an_empty_curve(alice: Api, session: TradingSession) -> None:
    found = curve(alice, session=session.pk)

    assert (found["results"], found["currency"], found["since"], found["next"]) == ([], "", None, None)


def test_another_trader_s_curve_is_as_unknown_as_none(alice: Api, bob: Api, root: Api, session: TradingSession) -> None:
    make_points(1, session=session)
    make_points(2, account=session.account)
    make_points(3, owner=alice.user)

    for name, pk in (("session", session.pk), ("account", session.account_id)):
        theirs, nobodys = bob.get("equity", **{name: pk}), bob.get("equity", **{name: 99999999})
        assert theirs.status_code == nobodys.status_code == 400
        assert theirs.json()["detail"] == f'{name}: Invalid pk "{pk}" - object does not exist.'
        assert len(values(curve(root, **{name: pk}))) == 1
    assert values(curve(bob, owner="me")) == values(curve(root, owner="me")) == []


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ({}, "wanted one of session, account and owner, was none"),
        ({"session": True, "owner": "me"}, "wanted one of session, account and owner, was session and owner"),
        ({"owner": "alice"}, 'owner: "alice" is not a valid choice.'),
        ({"owner": "me", "points": 0}, "points: Ensure this value is greater than or equal to 1."),
        ({"owner": "me", "points": 5001}, "points: Ensure this value is less than or equal to 5000."),
        ({"owner": "me", "since": at(1), "until": at(1)}, "since: wanted a time before until"),
        ({"owner": "me", "since": "9999-01-01T00:00:00Z"}, "since: wanted a time before until"),
        ({"owner": "me", "currency": "\0"}, "currency: Null characters are not allowed."),
    ],
)
def test_a_question_that_has_no_answer_is_refused(
    alice: Api, session: TradingSession, query: dict[str, Any], detail: str
) -> None:
    answer = alice.get("equity", **{name: session.pk if value is True else value for name, value in query.items()})

    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


@pytest.mark.parametrize("extreme", [{"since": "0001-01-01T00:00:00Z"}, {"until": "9999-12-31T23:59:59Z"}])
def test_a_curve_of_all_time_is_a_curve(alice: Api, session: TradingSession, extreme: dict[str, str]) -> None:
    make_points(1, 2, session=session)

    assert values(curve(alice, session=session.pk, **extreme))[-1] == 2
