"""Floor 4: StrategyExecutor: one evaluation per configuration and candle, however many sessions share it."""
