"""Floor 2a: venues, accounts, markets and the gateways: the only door outside."""
