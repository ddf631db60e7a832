"""`python -m benchmarks NAME`: what `./r3edge bench` runs, with the services named by the environment."""

from __future__ import annotations

import argparse
import importlib
import sys
from contextlib import nullcontext

import django
from django.core.management import call_command

from benchmarks.live import CannotRun, own_database
from benchmarks.options import ALONE, parser
from benchmarks.report import Report


def main(options: argparse.Namespace) -> int:
    try:
        with nullcontext() if options.name in ALONE else own_database():
            report = _run(options)
    except CannotRun as failure:
        print(f"r3edge bench {options.name}: {failure}", file=sys.stderr)
        return 1
    print(report.text())
    if options.json:
        report.write(options.json)
    return 0


def _run(options: argparse.Namespace) -> Report:
    if options.name not in ALONE:
        django.setup()
        call_command("migrate", verbosity=0)
    # After Django's setup: the benchmarks import models.
    report: Report = importlib.import_module(f"benchmarks.{options.name}").run(options)
    return report


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
