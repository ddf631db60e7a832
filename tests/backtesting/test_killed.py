"""A worker that dies with a backtest in its hands: whatever the moment, the run is computed once more and stored once."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from backtesting.models import BacktestResult, BacktestRun
from backtesting.runs import run_compute, run_request, runs_waiting
from backtesting.tasks import sweep_runs
from tests.backtesting.test_runs import asked, wave_feed
from tests.conftest import Bells
from tests.factories import events, make_user
from tests.pipeline.test_topics import in_a_process
from tests.workers import wait_until, workers_running

COMPUTES = "from backtesting.runs import run_compute\nrun_compute({pk})"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("point", ["backtest.claimed", "backtest.computed", "backtest.stored"])
def test_a_worker_that_is_killed_costs_time_and_no_result(bells: Bells, point: str) -> None:
    run = run_request(make_user(), asked(wave_feed()))

    killed = in_a_process(COMPUTES.format(pk=run.pk), R3EDGE_CRASH_AT=point)
    left_behind = BacktestRun.objects.get()
    while_leased = runs_waiting(timezone.now())
    BacktestRun.objects.filter(leased_until__isnull=False).update(leased_until=timezone.now())
    bells.clear()
    sweep_runs()
    rung = bells.rung("backtesting.run")
    again = run_compute(run.pk)

    is_stored = point == "backtest.stored"
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (left_behind.status, left_behind.tries) == ("DONE" if is_stored else "RUNNING", 1)
    assert while_leased == []
    assert rung == ([] if is_stored else [{"run_ids": [run.pk]}])
    assert again is not is_stored
    row = BacktestRun.objects.get()
    assert (row.status, row.tries) == ("DONE", 1 if is_stored else 2)
    assert BacktestResult.objects.count() == 1
    assert [event["backtest"] for event in events("research")] == ["QUEUED", "RUNNING", "DONE"]


@pytest.mark.flow
@pytest.mark.django_db(transaction=True)
def test_a_real_worker_computes_one_after_the_other_and_gives_way_to_all_others(bells: Bells) -> None:
    feed, owner = wave_feed(), make_user()

    with workers_running("worker-research") as workers:
        begun = timezone.now()
        runs = [run_request(owner, asked(feed)) for _ in range(3)]

        def are_done() -> bool:
            return BacktestRun.objects.filter(status="DONE").count() == len(runs)

        wait_until(are_done, f"three backtests done\n{workers.log('worker-research')}")
        pid = workers.processes["worker-research"].pid
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        niceness = [os.getpriority(os.PRIO_PROCESS, child) - os.getpriority(os.PRIO_PROCESS, pid) for child in children]

    assert niceness == [10]
    assert {row.tries for row in BacktestRun.objects.all()} == {1}
    assert len({row.data_hash for row in BacktestRun.objects.all()}) == 1
    assert timezone.now() - begun < timedelta(seconds=20)
