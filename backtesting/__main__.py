"""`python -m backtesting --strategy NAME --candles FILE`: what `./r3edge backtest` runs."""

import sys

from backtesting.commandline import main

sys.exit(main())
