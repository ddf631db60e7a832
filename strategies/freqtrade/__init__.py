"""Strategies written for freqtrade, run as they are and without it: written from its public documentation, as facts.

``reading`` refuses by name, file and line what cannot be done here; ``shims`` are the modules that such a file imports;
``adapter`` makes a strategy of ours of its class, and ``callbacks`` an adviser of its callbacks.
"""
