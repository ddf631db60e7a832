"""The page of studies: a form whose lines say what is searched, figures and pictures of what was found, buttons."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from backtesting.models import BacktestRun, Study
from backtesting.studies.charts import fan_chart, heat_map, objective_chart
from backtesting.studies.forms import said_of_line
from backtesting.studies.slices import study_step
from marketdata.models import Feed
from strategies.library.momentum_rotation import MomentumRotationParameters
from strategies.library.sma_cross import SmaCross
from tests.admin.conftest import errors_of, signed_in, told, url_of, words_of
from tests.backtesting.test_runs import FROM_AT, UNTIL_AT, wave_feed
from tests.backtesting.test_studies import requested

pytestmark = pytest.mark.usefixtures("no_renewals")


def filled_in(feed: Feed, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "OPTIMISE", "strategy": "sma_cross", "feeds": [feed.pk], "from_at_0": f"{FROM_AT:%Y-%m-%d}",
        "from_at_1": f"{FROM_AT:%H:%M:%S}", "until_at_0": f"{UNTIL_AT:%Y-%m-%d}", "until_at_1": f"{UNTIL_AT:%H:%M:%S}",
        "cash": "5000", "amount": "20", "slippage": "0.001", "taker_fee": "0.002",
        "method": "GRID", "objective": "total_return",
        "min_trades": 1, "trials_wanted": 50, "seed": 3, "sma_cross__fast": "2:4", "sma_cross__slow": "8, 12",
        "sma_cross__stop_loss_percent": "3", **changes,
    }  # fmt: skip


def done(owner: User, **words: Any) -> Study:
    study = requested(owner, **words)
    while study_step(study.pk):
        pass
    return Study.objects.get(pk=study.pk)


def press(client: Client, name: str, study: Study, **answers: Any) -> Any:
    return client.post(url_of(Study, name, study.pk), {"_form_submitted": "True", **answers})


def test_the_form_asks_for_a_study_in_lines(desk: Client, alice: User) -> None:
    feed = wave_feed()

    page = desk.get(url_of(Study, "add"))
    answer = desk.post(url_of(Study, "add"), filled_in(feed))

    study = Study.objects.get()
    assert "5:50 from 5 to 50" in words_of(page)
    assert answer.status_code == 302
    assert (study.owner, study.kind, study.seed, list(study.feeds.all())) == (alice, "OPTIMISE", 3, [feed])
    assert study.space == {"fast": {"low": 2, "high": 4}, "slow": [8, 12]}
    assert study.parameters == {"stop_loss_percent": "3", "take_profit_percent": "4"}
    assert (study.settings["cash"], study.settings["amount"], study.settings["slippage"]) == ("5000", "20", "0.001")
    assert study.settings["taker_fee"] == "0.002"


def test_a_walk_forward_and_a_monte_carlo_study_have_lines_of_their_own(desk: Client) -> None:
    feed = wave_feed()

    desk.post(url_of(Study, "add"), filled_in(feed, kind="WALK_FORWARD", train="96", test="48", is_anchored="on"))
    luck = {
        "kind": "MONTE_CARLO",
        "ways": ["TRADE_SHUFFLE"],
        "paths": "50",
        "sma_cross__fast": "3",
        "sma_cross__slow": "8",
    }
    desk.post(url_of(Study, "add"), filled_in(feed, **luck))

    walk, monte_carlo = Study.objects.order_by("pk")
    assert walk.options == {"train": "96", "test": "48", "is_anchored": True}
    assert (monte_carlo.options["ways"], monte_carlo.options["paths"]) == (["TRADE_SHUFFLE"], 50)
    assert (monte_carlo.space, monte_carlo.parameters["fast"]) == ({}, 3)


@pytest.mark.usefixtures("unpainted")
def test_what_is_wrong_is_said_where_it_stands(desk: Client) -> None:
    feed = wave_feed()

    lines = desk.post(url_of(Study, "add"), filled_in(feed, sma_cross__fast="2:a", sma_cross__slow="1:2:3:4"))
    whole = desk.post(url_of(Study, "add"), filled_in(feed, sma_cross__fast="0, 3", until_at_1="13:30:00"))
    empty = desk.post(url_of(Study, "add"), {})

    assert errors_of(lines) == {
        "sma_cross__fast": ["wanted a number, was 'a'"],
        "sma_cross__slow": ["wanted LOW:HIGH or LOW:HIGH:STEP, was '1:2:3:4'"],
    }
    assert errors_of(whole)["__all__"][0].startswith("wanted fast within its bounds")
    assert empty.status_code == 200
    assert not Study.objects.exists()


@pytest.mark.parametrize(
    ("text", "value", "searched"),
    [
        ("5", 5, None),
        ("0.5", 0.5, None),
        ("none", "none", None),
        ("true", True, None),
        ("5, 10", None, [5, 10]),
        ("5:50", None, {"low": 5, "high": 50}),
        ("0.5:2:0.5", None, {"low": 0.5, "high": 2, "step": 0.5}),
        ("*", None, {}),
    ],
)
def test_a_line_is_one_value_or_says_what_is_searched(text: str, value: Any, searched: Any) -> None:
    assert said_of_line(text, SmaCross.parameters_type.model_fields["fast"]) == (value, searched)


def test_a_list_of_markets_is_one_value() -> None:
    info = MomentumRotationParameters.model_fields["rivals"]

    assert said_of_line("ETH/USDT, SOL/USDT", info) == ("ETH/USDT, SOL/USDT", None)


def test_a_line_that_is_no_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="wanted a number, was 'x'"):
        said_of_line("x:5", SmaCross.parameters_type.model_fields["fast"])


def test_the_page_tells_what_was_found(desk: Client, alice: User) -> None:
    study = done(alice)

    page, live, listed = (
        desk.get(url)
        for url in (
            url_of(Study, "change", study.pk),
            url_of(Study, "sections", study.pk),
            url_of(Study, "changelist"),
        )
    )

    assert study.result is not None
    for answer in (page, live):
        text = words_of(answer)
        assert "100 %" in text
        assert "6 of 6, 240 candles each" in text
        assert study.result["words"][0] in text
        assert "Best trials Trial Total return Fast Slow Trades Sharpe Drawdown" in text
        assert answer.content.decode().count("<circle") == 6
        assert answer.content.decode().count("<title>fast") == 6
    assert 'hx-trigger="every 2s"' in page.content.decode()
    assert "width: 100.0%" in listed.content.decode()
    assert "total return" in words_of(listed)


def test_the_page_of_each_kind_draws_what_is_its_own(desk: Client, alice: User) -> None:
    feed = wave_feed()
    walk = done(alice, feed=feed, kind="WALK_FORWARD", options={"train": "96", "test": "48"})
    luck = done(
        alice,
        feed=feed,
        kind="MONTE_CARLO",
        space={},
        options={"paths": 20},
        setup={"parameters": {"fast": 3, "slow": 8}},
    )

    walked, drawn = (desk.get(url_of(Study, "change", one.pk)) for one in (walk, luck))

    assert "Equity of the tests, one after the other" in words_of(walked)
    headers = "Folds Fold Trained from Tested from To Fast Slow In training In the test Return of the test 0 2024-04-21"
    assert headers in words_of(walked)
    assert drawn.content.decode().count("<polygon") == 6
    assert "What luck might have done Left to luck Paths Return at 5 %" in words_of(drawn)
    assert "Best trials" not in words_of(drawn)


def test_a_study_that_has_not_begun_has_a_page(desk: Client, alice: User) -> None:
    study = requested(alice)

    page = desk.get(url_of(Study, "change", study.pk))

    assert "0 of 0, 0 candles each" in words_of(page)
    assert ("stop_circle" in page.content.decode(), "play_circle" in page.content.decode()) == (True, False)
    assert "query_stats" not in page.content.decode()


def test_buttons_stop_it_go_on_with_it_and_backtest_a_trial(desk: Client, alice: User) -> None:
    study = done(alice)

    ran = press(desk, "backtest", study, number=2)
    unknown = press(desk, "backtest", study, number=6)
    Study.objects.update(status="RUNNING")
    stopped = press(desk, "cancel", study)
    goes_on = press(desk, "retry", study)
    twice = press(desk, "retry", study)

    run = BacktestRun.objects.get()
    assert (run.owner, run.parameters["fast"]) == (alice, 3)
    assert told(ran)[-1].endswith(f"trial 2 is computed as backtest {run.pk}")
    assert told(unknown)[-1].endswith("wanted a trial of it, was number 6")
    assert [told(answer)[-1].split(": ")[1] for answer in (stopped, goes_on)] == ["stopped", "goes on"]
    assert told(twice)[-1].endswith("was QUEUED")


def test_anothers_study_is_not_seen_and_what_goes_on_is_not_deleted(desk: Client, alice: User, bob: User) -> None:
    mine, theirs = requested(alice), requested(bob, feed=wave_feed("ETH/USDT"))

    page = desk.get(url_of(Study, "change", theirs.pk))
    press(desk, "cancel", theirs)
    refused = desk.post(url_of(Study, "delete", mine.pk), {"post": "yes"})
    press(desk, "cancel", mine)
    deleted = desk.post(url_of(Study, "delete", mine.pk), {"post": "yes"})

    theirs.refresh_from_db()
    assert page.status_code == 302
    assert theirs.status == "QUEUED"
    assert (refused.status_code, deleted.status_code) == (403, 302)
    assert list(Study.objects.all()) == [theirs]
    assert theirs.name in words_of(signed_in(bob).get(url_of(Study, "changelist")))


def test_what_is_too_little_or_too_much_is_not_drawn() -> None:
    carpet = {(x, y): 0.0 for x in range(50) for y in range(2)}

    assert objective_chart([1.0, None], "sharpe") == ""
    assert heat_map(("a", "b"), carpet, "sharpe") == heat_map(("a", "b"), {(1, 1): 0.0, (2, 1): 1.0}, "sharpe") == ""
    assert fan_chart({"steps": [0], "curves": {}, "paths": 1}, "none") == ""


def test_the_best_of_a_map_is_marked_and_the_fullest() -> None:
    drawn = heat_map(("fast", "slow"), {(2, 8): 1.0, (2, 12): 3.0, (4, 8): 2.0, (4, 12): 2.0}, "sharpe")

    assert 'fill-opacity="1.000"><title>fast 2, slow 12: 3</title>' in drawn
    assert 'fill-opacity="0.040"><title>fast 2, slow 8: 1</title>' in drawn
    assert drawn.count('fill="none"') == 1


def test_the_best_line_of_a_chart_never_falls() -> None:
    drawn = str(objective_chart([1.0, 3.0, 2.0, 4.0], "sharpe"))

    heights = [float(point.split(",")[1]) for point in drawn.split('points="')[1].split('"')[0].split()]
    assert heights == sorted(heights, reverse=True)
    assert drawn.count("<circle") == 4
