"""A KuCoin-compatible exchange of its own: spot, futures, streams, exact books, scripted faults, an oracle.

It imports ``domain`` only and nothing of the platform imports it: the platform reaches it over HTTP, as any exchange.
"""
