"""Searches for parameters, and how much of what they find is luck. Pure: no Django, and Optuna only where it is asked."""
