"""The group of traders, with the permissions that the admin asks for."""

from django.db import migrations

from r3edge_site.traders import traders_group_ensure


def make(apps, schema_editor):
    traders_group_ensure(apps)


class Migration(migrations.Migration):
    initial = True
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("exchanges", "0001_initial"),
        ("knox", "0009_extend_authtoken_field"),
        ("marketdata", "0001_initial"),
        ("money", "0001_initial"),
        ("orders", "0001_initial"),
        ("pipeline", "0001_initial"),
        ("positions", "0001_initial"),
        ("strategies", "0001_initial"),
        ("trading_sessions", "0001_initial"),
    ]
    # A group that traders belong to outlives the migration.
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
