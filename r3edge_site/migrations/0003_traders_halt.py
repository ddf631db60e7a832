"""Traders halt what is theirs, lift it, and command groups of sessions; what they may already do stays as it is."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0002_traders_decide"),
        ("money", "0002_money_and_exits"),
        ("trading_sessions", "0003_money_and_exits"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
