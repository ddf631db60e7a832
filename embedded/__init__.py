"""What `./r3edge` runs: PostgreSQL and Valkey without installing them, and the supervisor of every process.

Knows no Django and decides nothing about trading; it starts processes, watches them and stops them.
"""
