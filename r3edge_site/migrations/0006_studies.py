"""Traders ask for studies of their own."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0005_backtests"),
        ("backtesting", "0002_studies"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
