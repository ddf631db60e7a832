"""The page of backtests: a form made of the strategy's and the account's words, figures when it is done, several side by
side."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from backtesting import runs
from backtesting.models import BacktestRun
from backtesting.runs import run_compute, run_repeat, run_request
from backtesting.words import SettingsWords
from marketdata.models import Feed
from strategies.forms import parameters_offered
from strategies.library import LIBRARY
from tests.admin.conftest import errors_of, form_of, signed_in, told, url_of, words_of
from tests.backtesting.test_runs import asked, wave_feed
from tests.factories import make_account, make_user


def filled_in(*feeds: Feed, **changes: Any) -> dict[str, Any]:
    """The form as a browser sends it."""
    form: dict[str, Any] = {
        "name": "", "feeds": [feed.pk for feed in feeds], "strategy": "sma_cross", "detail_timeframe": "", "account": "",
        "from_at_0": "2024-04-21", "from_at_1": "13:00:00", "until_at_0": "2024-05-01", "until_at_1": "13:00:00",
        "limits": "", "exits": "",
    }  # fmt: skip
    for strategy, parameter in parameters_offered():
        default = LIBRARY[strategy].parameters_type.model_fields[parameter].default
        form[f"{strategy}__{parameter}"] = "" if default is None else default
    for name, info in SettingsWords.model_fields.items():
        if not isinstance(info.default, bool) or info.default:
            form[f"settings__{name}"] = "" if info.default is None else info.default
    return {**form, "sma_cross__fast": "3", "sma_cross__slow": "8", **changes}


def done(owner: User, feed: Feed | None = None, **words: Any) -> BacktestRun:
    run = run_request(owner, asked(feed or wave_feed(), **words))
    run_compute(run.pk)
    return BacktestRun.objects.get(pk=run.pk)


def press(client: Client, button: str, run: BacktestRun) -> Any:
    return client.post(url_of(BacktestRun, button, run.pk), {"_form_submitted": "True"})


def test_the_form_asks_for_a_backtest_and_leads_to_its_page(desk: Client, alice: User) -> None:
    feed, other = wave_feed("ETH/USDT"), wave_feed()

    page = desk.get(url_of(BacktestRun, "add"))
    answer = desk.post(
        url_of(BacktestRun, "add"),
        filled_in(
            feed, other, settings__cash="2500", settings__sizing="FIXED_QUOTE", settings__amount="100",
            exits='{"trailing_percent": "1.5"}', limits='{"max_open_positions": 1}',
        ),
    )  # fmt: skip

    run = BacktestRun.objects.get()
    assert "The highest" not in words_of(page)
    assert "Left out: the highest of the markets" in words_of(page)
    assert (answer.status_code, answer["Location"]) == (302, url_of(BacktestRun, "change", run.pk))
    assert (run.owner, run.status, run.name) == (alice, "QUEUED", "SMA crossover ETH/USDT, BTC/USDT 1h")
    assert (run.parameters["fast"], run.settings["cash"], run.settings["sizing"]) == (3, "2500", "FIXED_QUOTE")
    assert (run.settings["taker_fee"], run.settings["rests_targets"]) == ("0.001", True)
    assert (run.exits, run.limits) == ({"trailing_percent": "1.5"}, {"max_open_positions": 1})


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"sma_cross__fast": "1"}, {"sma_cross__fast": ["Input should be greater than or equal to 2, was 1"]}),
        ({"settings__cash": "-5"}, {"settings__cash": ["Input should be greater than 0, was -5"]}),
        ({"settings__leverage": "3"}, {"settings__leverage": ["wanted 1 on a spot market, was 3"]}),
        ({"limits": "[1"}, {"limits": ["Enter a valid JSON."]}),
        ({"limits": '{"x": 1}'}, {"limits": ["x: wanted one of max_open_positions, "]}),
        ({"until_at_0": "2024-04-20"}, {"until_at": ["wanted a time after 2024-04-21 13:00, was 2024-04-20 13:00"]}),
        ({"detail_timeframe": "5m"}, {"detail_timeframe": ["wanted a feed of BTC/USDT at simulator at 5m, was none"]}),
        ({"feeds": []}, {"feeds": ["This field is required."]}),
        ({"from_at_0": "2024-01-01"}, {"from_at": ["wanted 2,904 candles of simulator-BTC/USDT-1h, 2,664 are missing"]}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("unpainted")
def test_what_is_wrong_is_said_at_its_field(
    desk: Client, changes: dict[str, Any], errors: dict[str, list[str]]
) -> None:
    answer = desk.post(url_of(BacktestRun, "add"), filled_in(wave_feed(), **changes))

    found = errors_of(answer)
    assert list(found) == list(errors)
    for name, [text] in errors.items():
        assert found[name][0].startswith(text)
    assert not BacktestRun.objects.exists()


@pytest.mark.usefixtures("unpainted")
def test_who_has_too_many_that_wait_is_told_by_the_form(desk: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_LIVE", 0)

    answer = desk.post(url_of(BacktestRun, "add"), filled_in(wave_feed()))

    assert errors_of(answer) == {"__all__": ["wanted at most 0 backtests of yours that wait, was as many: cancel some"]}


@pytest.mark.usefixtures("unpainted")
def test_only_ones_own_accounts_are_offered(desk: Client, alice: User, bob: User) -> None:
    mine, theirs = make_account(alice), make_account(bob, name="of bob")

    form = form_of(desk.get(url_of(BacktestRun, "add")))
    answer = desk.post(url_of(BacktestRun, "add"), filled_in(wave_feed(), account=theirs.pk))

    assert list(form.fields["account"].queryset) == [mine]
    assert list(errors_of(answer)) == ["account"]


@pytest.mark.usefixtures("unpainted")
def test_another_like_it_begins_with_its_words(desk: Client, alice: User, bob: User) -> None:
    run, theirs = done(alice, limits={"max_open_positions": 2}), done(bob)

    form = form_of(desk.get(url_of(BacktestRun, "add"), {"like": run.pk}))
    other = form_of(desk.get(url_of(BacktestRun, "add"), {"like": theirs.pk}))

    assert (form["strategy"].value(), form["sma_cross__fast"].value(), form["settings__cash"].value()) == (
        "sma_cross", 3, "10000",
    )  # fmt: skip
    assert (form["feeds"].value(), form["limits"].value()) == ([run.feeds.get().pk], '{"max_open_positions": 2}')
    assert other["strategy"].value() is None
    assert desk.get(url_of(BacktestRun, "add"), {"like": "x"}).status_code == 200


def test_the_page_of_one_that_runs_shows_how_far_it_is(desk: Client, alice: User) -> None:
    run = run_request(alice, asked(wave_feed()))
    BacktestRun.objects.update(status="RUNNING", done=60, total=240)

    page, live, listed = (desk.get(url) for url in (
        url_of(BacktestRun, "change", run.pk), url_of(BacktestRun, "sections", run.pk), url_of(BacktestRun, "changelist"),
    ))  # fmt: skip

    for answer in (page, live):
        assert "25 %" in words_of(answer)
        assert "width: 25.0%" in answer.content.decode()
    assert 'hx-trigger="every 2s"' in page.content.decode()
    assert "width: 25.0%" in listed.content.decode()


def test_the_page_of_one_that_is_done_shows_figures_trades_and_where_the_rest_is(desk: Client, alice: User) -> None:
    run = done(alice)
    again = run_repeat(run, alice)
    run_compute(again.pk)
    BacktestRun.objects.filter(pk=run.pk).update(
        figures={**(run.figures or {}), "warnings": [{"code": "FEW", "text": "only seven trades"}]}
    )

    page = desk.get(url_of(BacktestRun, "change", run.pk))
    repeated = desk.get(url_of(BacktestRun, "change", again.pk))

    words = words_of(page)
    assert "DONE" in words
    assert f"Trades {(run.figures or {})['stats']['trades']}" in words
    assert "only seven trades" in words
    assert "stop loss percent 2, take profit percent 4, fast 3, slow 8" in words
    assert reverse("backtest-report", args=[run.pk]) in page.content.decode()
    assert "<polyline" in page.content.decode()
    assert "TAKE_PROFIT" in words
    assert "the same code on the same candles, and the same trades" in words_of(repeated)


def test_a_failure_is_shown_as_text(desk: Client, alice: User) -> None:
    run = run_request(alice, asked(wave_feed()), name="<b>mine")
    BacktestRun.objects.update(status="FAILED", last_error="ValueError: <script>")

    page = desk.get(url_of(BacktestRun, "change", run.pk)).content.decode()

    assert "ValueError: &lt;script&gt;" in page
    assert "<b>mine" not in page


def test_it_is_cancelled_tried_again_repeated_and_deleted_by_buttons(desk: Client, alice: User) -> None:
    run = run_request(alice, asked(wave_feed()), name="one")
    offered = desk.get(url_of(BacktestRun, "change", run.pk)).content.decode()

    kept = desk.post(url_of(BacktestRun, "delete", run.pk), {"post": "yes"})
    cancelled, retried = press(desk, "cancel", run), press(desk, "retry", run)
    run_compute(run.pk)
    repeated = press(desk, "repeat", run)
    gone = desk.post(url_of(BacktestRun, "delete", run.pk), {"post": "yes"})

    assert ("stop_circle" in offered, "play_circle" in offered) == (True, False)
    assert kept.status_code == 403
    assert told(cancelled)[-1] == "one: cancelled"
    assert told(retried)[-1] == "one: is computed again"
    assert told(repeated)[-1].startswith("one: is computed once more, as number ")
    assert gone.status_code == 302
    assert list(BacktestRun.objects.values_list("status", "repeats")) == [("QUEUED", None)]


def test_several_are_compared_side_by_side(desk: Client, alice: User, bob: User) -> None:
    feed = wave_feed()
    one, other = done(alice, feed), done(alice, feed, parameters={"fast": 3, "slow": 12})
    theirs = done(bob, feed)

    chosen = desk.post(
        url_of(BacktestRun, "changelist"), {"action": "compare_selected", "_selected_action": [one.pk, other.pk]}
    )
    page = desk.get(chosen["Location"])
    foreign = desk.get(reverse("admin:backtesting_backtestrun_compare"), {"ids": f"{theirs.pk}"})

    assert chosen["Location"].endswith(f"compare/?ids={one.pk},{other.pk}")
    words = words_of(page)
    assert f"What differs {one.pk}: {one.name} {other.pk}: {other.name} slow 8 12" in words
    assert page.content.decode().count("<polyline") == 2
    assert "Deepest drawdown" in words
    assert "none of yours was named" in words_of(foreign)
    clerk = signed_in(make_user("clerk", is_staff=True))
    assert clerk.get(chosen["Location"]).status_code == 403


def test_somebody_elses_is_neither_seen_nor_pressed(desk: Client, bob: User) -> None:
    theirs = run_request(bob, asked(wave_feed()), name="of bob")

    assert "of bob" not in words_of(desk.get(url_of(BacktestRun, "changelist")))
    assert desk.get(url_of(BacktestRun, "change", theirs.pk)).status_code == 302
    press(desk, "cancel", theirs)
    theirs.refresh_from_db()
    assert theirs.status == "QUEUED"


def test_a_superuser_sees_whose_it_is(root: User, alice: User) -> None:
    run_request(alice, asked(wave_feed()))

    assert "alice" in words_of(signed_in(root).get(url_of(BacktestRun, "changelist")))
