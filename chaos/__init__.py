"""Breaks the platform on purpose, on services of its own, and checks that nothing was lost and nothing was sent twice."""
