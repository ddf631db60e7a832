"""Traders halt what is theirs and lift it, command groups of sessions, and see the equity curve and the funding of their
accounts; what they may already do stays as it is."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0002_traders_decide"),
        ("money", "0002_money_and_exits"),
        ("orders", "0005_money_and_exits"),
        ("trading_sessions", "0003_money_and_exits"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
