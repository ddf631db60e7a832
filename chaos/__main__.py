"""`python -m chaos`: what `./r3edge chaos` runs. Starts servers of its own, whatever the environment names."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys

import django
from django.core.management import call_command

from chaos.breach import CannotRun
from chaos.options import parser
from chaos.servers import ground_made
from embedded.child import StartFailed
from embedded.commands import ONLY_TO_LOAD_SETTINGS


def main(options: argparse.Namespace) -> int:
    if options.list:
        os.environ.update({"DJANGO_SETTINGS_MODULE": "r3edge_site.settings", **ONLY_TO_LOAD_SETTINGS})
        django.setup()
        print(importlib.import_module("chaos.run").listing())
        return 0
    # Asked to end, a run says what it has found so far, and takes its servers down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ground_made() as ground:
            os.environ.update(ground.own_env)
            django.setup()
            # After Django's setup: what follows imports models.
            run = importlib.import_module("chaos.run")
            call_command("migrate", verbosity=0)
            report = run.run(options, ground)
            if report.breaches:
                print(f"r3edge chaos: what the processes said is in {ground.home.keep_logs()}", file=sys.stderr)
    except (CannotRun, StartFailed) as failure:
        print(f"r3edge chaos: {failure} (seed {options.seed})", file=sys.stderr)
        return 2
    print(report.text())
    if options.json:
        report.write(options.json)
    return int(bool(report.breaches))


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
