"""Floor 6: Backtester and Optimiser: the decisions of live trading over candles that are past, faster."""
