"""A KuCoin-compatible spot exchange of its own: synthetic or replayed prices, exact books, scripted faults, an oracle.

It imports ``domain`` only and nothing of the platform imports it: the platform reaches it over HTTP, as any exchange.
"""
