"""Where candles come from, what was doubted, changed or missed, and candles by month."""

import django.contrib.postgres.indexes
import django.db.models.deletion
import django.utils.timezone
import pipeline.fields
from django.conf import settings
from django.db import migrations, models

# Django's own CREATE TABLE knows no partitions. Whatever no month covers lands in the rest, so that no insert fails for want
# of a partition. Where the database has TimescaleDB, its chunks take the place of our months.
CANDLES = """
ALTER TABLE marketdata_candle RENAME TO marketdata_candle_before;
ALTER INDEX marketdata_candle_pkey RENAME TO marketdata_candle_before_pkey;
DO $$
DECLARE
    has_timescale constant boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    month timestamptz;
BEGIN
    EXECUTE 'CREATE TABLE marketdata_candle (
        feed_id bigint NOT NULL,
        open_at timestamptz NOT NULL,
        collected_at timestamptz NOT NULL,
        source smallint NOT NULL DEFAULT 0 CHECK (source >= 0),
        open numeric(36,18) NOT NULL,
        high numeric(36,18) NOT NULL,
        low numeric(36,18) NOT NULL,
        close numeric(36,18) NOT NULL,
        volume numeric(36,18) NOT NULL,
        PRIMARY KEY (feed_id, open_at)
    )' || CASE WHEN has_timescale THEN '' ELSE ' PARTITION BY RANGE (open_at)' END;
    IF has_timescale THEN
        EXECUTE 'SELECT create_hypertable(''marketdata_candle'', ''open_at'', chunk_time_interval => INTERVAL ''1 month'')';
    ELSE
        CREATE TABLE marketdata_candle_rest PARTITION OF marketdata_candle DEFAULT;
        FOR month IN SELECT DISTINCT date_trunc('month', open_at, 'UTC') FROM marketdata_candle_before LOOP
            EXECUTE format(
                'CREATE TABLE marketdata_candle_%s PARTITION OF marketdata_candle FOR VALUES FROM (%L) TO (%L)',
                to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'),
                month, (month AT TIME ZONE 'UTC' + INTERVAL '1 month') AT TIME ZONE 'UTC'
            );
        END LOOP;
    END IF;
END $$;
CREATE INDEX candle_by_time ON marketdata_candle USING brin (open_at);
INSERT INTO marketdata_candle (feed_id, open_at, open, high, low, close, volume, collected_at)
SELECT feed_id, open_at, open, high, low, close, volume, collected_at FROM marketdata_candle_before;
DROP TABLE marketdata_candle_before;
"""
CANDLES_BACK = """
ALTER TABLE marketdata_candle RENAME TO marketdata_candle_after;
CREATE TABLE marketdata_candle (
    open_at timestamptz NOT NULL,
    open numeric(36,18) NOT NULL,
    high numeric(36,18) NOT NULL,
    low numeric(36,18) NOT NULL,
    close numeric(36,18) NOT NULL,
    volume numeric(36,18) NOT NULL,
    collected_at timestamptz NOT NULL,
    feed_id bigint NOT NULL
);
INSERT INTO marketdata_candle SELECT open_at, open, high, low, close, volume, collected_at, feed_id FROM marketdata_candle_after;
DROP TABLE marketdata_candle_after;
ALTER TABLE marketdata_candle ADD PRIMARY KEY (feed_id, open_at);
ALTER TABLE marketdata_candle ADD FOREIGN KEY (feed_id) REFERENCES marketdata_feed DEFERRABLE INITIALLY DEFERRED;
"""
TRADES = """
CREATE TABLE marketdata_markettrade (
    market_id bigint NOT NULL REFERENCES exchanges_market DEFERRABLE INITIALLY DEFERRED,
    traded_at timestamptz NOT NULL,
    trade_id varchar(64) NOT NULL,
    is_buy boolean NOT NULL,
    price numeric(36,18) NOT NULL,
    quantity numeric(36,18) NOT NULL,
    PRIMARY KEY (market_id, traded_at, trade_id)
) PARTITION BY RANGE (traded_at);
CREATE TABLE marketdata_markettrade_rest PARTITION OF marketdata_markettrade DEFAULT;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('exchanges', '0006_money_and_exits'),
        ('marketdata', '0004_feed_stale_told'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Backfill',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('from_at', models.DateTimeField(help_text='Open time of the first candle wanted, UTC.')),
                ('until_at', models.DateTimeField(help_text='Candles that open at this time or later are not wanted, UTC.')),
                ('cursor_at', models.DateTimeField(editable=False)),
                ('status', models.CharField(choices=[('QUEUED', 'Queued'), ('RUNNING', 'Running'), ('DONE', 'Done'), ('FAILED', 'Failed'), ('CANCELED', 'Canceled')], default='QUEUED', editable=False, max_length=8)),
                ('rows_seen', models.PositiveBigIntegerField(default=0, editable=False)),
                ('rows_new', models.PositiveBigIntegerField(default=0, editable=False)),
                ('failures', models.PositiveIntegerField(default=0, editable=False, help_text='In a row.')),
                ('last_error', models.CharField(blank=True, editable=False, max_length=200)),
                ('not_before_at', models.DateTimeField(editable=False, null=True)),
                ('leased_until', models.DateTimeField(editable=False, null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('started_at', models.DateTimeField(editable=False, null=True)),
                ('ended_at', models.DateTimeField(editable=False, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='CandleGap',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('from_at', models.DateTimeField()),
                ('until_at', models.DateTimeField()),
                ('missing', models.PositiveIntegerField()),
                ('status', models.CharField(choices=[('OPEN', 'Open'), ('FILLED', 'Filled'), ('CONFIRMED', 'Confirmed')], default='OPEN', max_length=9)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('last_error', models.CharField(blank=True, max_length=200)),
                ('not_before_at', models.DateTimeField(help_text='It is not asked for before.', null=True)),
                ('leased_until', models.DateTimeField(null=True)),
                ('found_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name='CandleRevision',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('open_at', models.DateTimeField()),
                ('was_open', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('was_high', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('was_low', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('was_close', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('was_volume', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('open', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('high', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('low', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('close', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('volume', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                ('was_source', models.PositiveSmallIntegerField(choices=[(0, 'Exchange'), (1, 'Yahoo Finance'), (2, 'Alpha Vantage'), (3, 'File'), (4, 'Shorter candles')])),
                ('source', models.PositiveSmallIntegerField(choices=[(0, 'Exchange'), (1, 'Yahoo Finance'), (2, 'Alpha Vantage'), (3, 'File'), (4, 'Shorter candles')])),
                ('seen_at', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='FeedSource',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('rank', models.PositiveSmallIntegerField()),
                ('kind', models.PositiveSmallIntegerField(choices=[(0, 'Exchange'), (1, 'Yahoo Finance'), (2, 'Alpha Vantage'), (3, 'File'), (4, 'Shorter candles')])),
                ('symbol', models.CharField(blank=True, help_text='What it calls the market, or the file; empty: as the market is called here.', max_length=200)),
                ('failures', models.PositiveIntegerField(default=0, editable=False)),
                ('last_error', models.CharField(blank=True, editable=False, max_length=200)),
                ('failed_at', models.DateTimeField(editable=False, help_text='Since when it fails; empty while it serves.', null=True)),
                ('retry_at', models.DateTimeField(editable=False, help_text='It is not asked before.', null=True)),
            ],
            options={
                'ordering': ('feed_id', 'rank'),
            },
        ),
        migrations.CreateModel(
            name='FundingRate',
            fields=[
                ('market', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='funding_rates', to='exchanges.market')),
                ('pk', models.CompositePrimaryKey('market_id', 'paid_at', blank=True, editable=False, primary_key=True, serialize=False)),
                ('paid_at', models.DateTimeField()),
                ('rate', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
            ],
        ),
        migrations.CreateModel(
            name='QuarantinedCandle',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('open_at', models.DateTimeField()),
                ('flaw', models.CharField(choices=[('STILL_OPEN', 'STILL_OPEN'), ('NOT_A_PRICE', 'NOT_A_PRICE'), ('BAD_OHLC', 'BAD_OHLC'), ('OFF_GRID', 'OFF_GRID'), ('OUT_OF_ORDER', 'OUT_OF_ORDER'), ('DUPLICATE', 'DUPLICATE'), ('OUT_OF_SESSION', 'OUT_OF_SESSION'), ('JUMP', 'JUMP')], max_length=16)),
                ('detail', models.CharField(max_length=200)),
                ('row', models.JSONField()),
                ('source', models.PositiveSmallIntegerField(choices=[(0, 'Exchange'), (1, 'Yahoo Finance'), (2, 'Alpha Vantage'), (3, 'File'), (4, 'Shorter candles')])),
                ('times', models.PositiveIntegerField(default=1)),
                ('seen_at', models.DateTimeField(help_text='When it came first.')),
                ('last_seen_at', models.DateTimeField()),
                ('released_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name='Tape',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('TRADES', 'Trades'), ('FUNDING', 'Funding')], max_length=7)),
                ('is_needed', models.BooleanField(default=False)),
                ('next_due_at', models.DateTimeField(null=True)),
                ('leased_until', models.DateTimeField(null=True)),
                ('last_at', models.DateTimeField(null=True)),
                ('whole_since', models.DateTimeField(null=True)),
                ('holes', models.PositiveIntegerField(default=0)),
                ('misses', models.PositiveIntegerField(default=0, help_text='Failures in a row.')),
                ('last_error', models.CharField(blank=True, max_length=200)),
            ],
        ),
        migrations.AddField(
            model_name='feed',
            name='calendar',
            field=models.CharField(choices=[('24/7', '24/7'), ('FX', 'FX'), ('XNYS', 'XNYS'), ('XNAS', 'XNAS'), ('XLON', 'XLON'), ('XTSE', 'XTSE')], default='24/7', help_text='When its market is open: a candle that is not expected is not missed.', max_length=8),
        ),
        migrations.AddField(
            model_name='feed',
            name='changes',
            field=models.PositiveBigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='feed',
            name='checked_at',
            field=models.DateTimeField(default=django.utils.timezone.now, help_text='When all of its history was last looked through.'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='feed',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='backfills', to='marketdata.feed'),
        ),
        migrations.AddField(
            model_name='backfill',
            name='requested_by',
            field=models.ForeignKey(blank=True, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='candlegap',
            name='feed',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='gaps', to='marketdata.feed'),
        ),
        migrations.AddField(
            model_name='candlerevision',
            name='feed',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='revisions', to='marketdata.feed'),
        ),
        migrations.AddField(
            model_name='feedsource',
            name='feed',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='sources', to='marketdata.feed'),
        ),
        migrations.AddField(
            model_name='feed',
            name='source',
            field=models.ForeignKey(help_text='The one that is asked now; empty: the first.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='marketdata.feedsource'),
        ),
        migrations.AddField(
            model_name='quarantinedcandle',
            name='feed',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='quarantine', to='marketdata.feed'),
        ),
        migrations.AddField(
            model_name='tape',
            name='market',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='tapes', to='exchanges.market'),
        ),
        migrations.AddIndex(
            model_name='backfill',
            index=models.Index(condition=models.Q(('status__in', ['QUEUED', 'RUNNING'])), fields=['not_before_at'], name='backfill_live'),
        ),
        migrations.AddConstraint(
            model_name='backfill',
            constraint=models.CheckConstraint(condition=models.Q(('until_at__gt', models.F('from_at'))), name='backfill_goes_forward'),
        ),
        migrations.AddConstraint(
            model_name='backfill',
            constraint=models.UniqueConstraint(condition=models.Q(('status__in', ['QUEUED', 'RUNNING'])), fields=('feed', 'from_at', 'until_at'), name='backfill_once_at_a_time'),
        ),
        migrations.AddIndex(
            model_name='candlegap',
            index=models.Index(condition=models.Q(('status', 'OPEN')), fields=['not_before_at'], name='gap_open'),
        ),
        migrations.AddConstraint(
            model_name='candlegap',
            constraint=models.UniqueConstraint(fields=('feed', 'from_at'), name='gap_once_per_feed_and_start'),
        ),
        migrations.AddIndex(
            model_name='candlerevision',
            index=models.Index(fields=['feed', '-open_at'], name='revision_by_feed'),
        ),
        migrations.AddConstraint(
            model_name='feedsource',
            constraint=models.UniqueConstraint(fields=('feed', 'rank'), name='source_rank_once_per_feed'),
        ),
        migrations.AddConstraint(
            model_name='feedsource',
            constraint=models.UniqueConstraint(fields=('feed', 'kind', 'symbol'), name='source_once_per_feed'),
        ),
        migrations.AddConstraint(
            model_name='quarantinedcandle',
            constraint=models.UniqueConstraint(fields=('feed', 'open_at', 'flaw', 'source'), name='quarantined_once_per_flaw'),
        ),
        migrations.AddIndex(
            model_name='tape',
            index=models.Index(condition=models.Q(('is_needed', True)), fields=['next_due_at'], name='tape_due'),
        ),
        migrations.AddConstraint(
            model_name='tape',
            constraint=models.UniqueConstraint(fields=('market', 'kind'), name='tape_once_per_market_and_kind'),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CANDLES, CANDLES_BACK), migrations.RunSQL(TRADES, "DROP TABLE marketdata_markettrade")],
            state_operations=[
                migrations.AddField(
                    model_name='candle',
                    name='source',
                    field=models.PositiveSmallIntegerField(choices=[(0, 'Exchange'), (1, 'Yahoo Finance'), (2, 'Alpha Vantage'), (3, 'File'), (4, 'Shorter candles')], db_default=0, default=0),
                ),
                migrations.AlterField(
                    model_name='candle',
                    name='feed',
                    field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='candles', to='marketdata.feed'),
                ),
                migrations.AddIndex(
                    model_name='candle',
                    index=django.contrib.postgres.indexes.BrinIndex(fields=['open_at'], name='candle_by_time'),
                ),
                migrations.CreateModel(
                    name='MarketTrade',
                    fields=[
                        ('market', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='trades', to='exchanges.market')),
                        ('pk', models.CompositePrimaryKey('market_id', 'traded_at', 'trade_id', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('traded_at', models.DateTimeField()),
                        ('trade_id', models.CharField(max_length=64)),
                        ('is_buy', models.BooleanField()),
                        ('price', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                        ('quantity', pipeline.fields.ExactField(decimal_places=18, max_digits=36)),
                    ],
                ),
            ],
        ),
    ]
