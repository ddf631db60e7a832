"""Traders see the differences of their accounts; what came with 0001 stays as it is."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0001_traders_group"),
        ("positions", "0003_reconciliation"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
