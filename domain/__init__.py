"""What money decisions are made of: pure functions and values, without Django, Celery, ccxt or a clock."""
