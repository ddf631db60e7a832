"""Backtester's and Optimiser's doors."""

from __future__ import annotations

import logging

from celery import shared_task

from backtesting import runs
from backtesting.studies import slices as study_slices
from pipeline.sweeps import Waiting, sweep, swept_apart

logger = logging.getLogger(__name__)

WAITING = (
    Waiting("backtest to be computed", runs.runs_waiting, runs.TASK, "run_ids", batch=1),
    Waiting("study to go on", study_slices.studies_waiting, study_slices.TASK, "study_ids", batch=1),
)


# Taken before it is done, unlike all others: the broker would hand out a second time what goes on for longer than it is
# patient, and a worker that dies leaves a lease that runs out.
@shared_task(
    name=runs.TASK, acks_late=False, soft_time_limit=runs.LONGEST_SECONDS, time_limit=runs.LONGEST_SECONDS + 30
)
def run(run_ids: list[int]) -> None:
    for run_id in run_ids:
        try:
            runs.run_compute_next()
        except Exception:  # its lease runs out and the sweep rings again
            logger.exception("no backtest was computed at the bell of %s", run_id)


@shared_task(name="backtesting.sweep")
def sweep_runs() -> None:
    sweep(*swept_apart("backtesting", WAITING))


@shared_task(
    name=study_slices.TASK,
    acks_late=False,
    soft_time_limit=study_slices.LONGEST_SECONDS,
    time_limit=study_slices.LONGEST_SECONDS + 30,
)
def step(study_ids: list[int]) -> None:
    for study_id in study_ids:
        try:
            study_slices.study_step_next()
        except Exception:  # as for backtests
            logger.exception("no study went on at the bell of %s", study_id)


@shared_task(name="optimising.sweep")
def sweep_studies() -> None:
    sweep(*swept_apart("optimising", WAITING))
