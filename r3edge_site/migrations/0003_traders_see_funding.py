"""Traders see the funding of their accounts."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("r3edge_site", "0002_traders_decide"),
        ("orders", "0005_money_and_exits"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
