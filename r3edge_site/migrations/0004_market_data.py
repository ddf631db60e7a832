"""Traders ask for history and see how far it is; what they may already do stays as it is."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0003_money_and_exits"),
        ("marketdata", "0005_market_data"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
