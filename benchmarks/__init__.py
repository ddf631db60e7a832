"""Benchmarks of the real thing: real workers on durable services and the simulated exchange, each figure beside its goal
and beside a floor that was measured in the same run. Nothing here asserts a time; machines differ.
"""
