"""Floor 2b: DataCollect and MarketDataService: every closed candle, once."""
