"""The database dies, loses a connection in the middle of a commit, is full, or has no connection left: all of a step or
none of it, and nothing is sent without its row."""

from __future__ import annotations

import time
from contextlib import suppress
from signal import SIGKILL, SIGQUIT

import psycopg
from django.db import connection, connections

from chaos.scenarios import scenario
from chaos.scenarios.acts import let_go_by, tell, wait_ended
from chaos.stage import Stage
from chaos.world import World
from domain.orders import OrderStatus
from positions.models import Position, PositionStatus
from sessions.models import SessionStatus, TradingSession

S = OrderStatus


@scenario("database-restarts", rows=(19,))
def database_restarts(stage: Stage) -> None:
    """PostgreSQL is shut down at once, and killed, in the middle of orders and signals; twice each."""
    account = stage.account("10000000")
    sessions = [stage.session(status=SessionStatus.ACTIVE) for _ in range(4)]
    orders = [stage.ready_order(account) for _ in range(12)]
    for number in range(4):
        stage.submit(*orders[number * 3 : number * 3 + 3])
        tell(stage, sessions[number].config)
        time.sleep(stage.rng.uniform(0, 0.2))
        stage.postgres_restart(SIGQUIT if number % 2 else SIGKILL)
    wait_ended(stage, orders)
    # Each signal is answered: by a position, or by an entry that came too late and says so.
    mine = [session.pk for session in sessions]
    unseen = TradingSession.objects.filter(pk__in=mine, last_signal=None)
    undecided = Position.objects.filter(session__in=mine, status=PositionStatus.PENDING)
    stage.wait(lambda: not unseen.exists() and not undecided.exists(), "every session to answer its signal", 60)


@scenario("commit-cut", rows=(20,))
def commit_cut(stage: Stage) -> None:
    """The connection breaks in the very commit, before it reached the database or after: nobody guesses which."""
    account = stage.account("10000000")
    orders = [stage.ready_order(account) for _ in range(16)]
    made = stage.database_proxy.cuts_made
    for number, order in enumerate(orders):
        stage.database_proxy.cut_at(b"COMMIT", 1 + number % 4, "after" if number % 2 else "before")
        stage.submit(order)
        let_go_by(stage, 0.3)
    stage.database_proxy.heal()
    stage.count("database", stage.database_proxy.cuts_made - made)
    stage.expect(stage.database_proxy.cuts_made - made >= 4, "wanted some commits cut, were fewer than 4")
    wait_ended(stage, orders)


@scenario("database-hangs", rows=(19, 20))
def database_hangs(stage: Stage) -> None:
    """The way to the database stalls, and is then cut, with orders in the air."""
    account = stage.account("10000000")
    orders = [stage.ready_order(account) for _ in range(6)]
    stage.submit(*orders)
    stage.database_proxy.stall()
    stage.count("database")
    time.sleep(3 * stage.pace)
    stage.database_proxy.cut()
    time.sleep(0.5)
    stage.database_proxy.heal()
    wait_ended(stage, orders)


@scenario("disk-full", rows=(22,), needs_stage=False)
def disk_full(stage: World) -> None:
    """The database has no room for a claim (its error 53100): then nothing is sent; with room again everything is."""
    orders = [stage.ready_order() for _ in range(3)]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE OR REPLACE FUNCTION chaos_disk_full() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER chaos_disk_full BEFORE UPDATE ON orders_order
            FOR EACH ROW WHEN (NEW.status = 'SUBMITTING') EXECUTE FUNCTION chaos_disk_full();
            """
        )
    stage.count("database")
    try:
        stage.submit(*orders)
        let_go_by(stage, 1)
        sent = [stage.sent(order) for order in orders]
        stage.expect(sent == [0, 0, 0], f"wanted nothing sent without its row, were {sent}")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER chaos_disk_full ON orders_order; DROP FUNCTION chaos_disk_full()")
    for order in orders:
        stage.wait_order(order, S.CLOSED)
        stage.expect_order(order, S.CLOSED, accepted=1, sent=1)


@scenario("connections-used-up", rows=(23,))
def connections_used_up(stage: Stage) -> None:
    """Somebody takes every connection that the database has left, and new workers find none: those that have one go on, and
    the others come back."""
    settings = connection.settings_dict
    taken: list[psycopg.Connection] = []
    orders = [stage.ready_order() for _ in range(4)]
    try:
        for _ in range(500):
            try:
                taken.append(
                    psycopg.connect(
                        host=settings["HOST"],
                        port=settings["PORT"],
                        user=settings["USER"],
                        password=settings["PASSWORD"],
                        dbname=settings["NAME"],
                        connect_timeout=5,
                    )  # fmt: skip
                )
            except psycopg.OperationalError:
                break
        else:
            stage.expect(len(taken) < 500, "wanted the connections to end, 500 were given")
        stage.count("database")
        stage.submit(*orders[:2])
        stage.restart("orders", wait=False)
        stage.submit(*orders[2:])
        let_go_by(stage, 5 * stage.pace)
    finally:
        for one in taken:
            with suppress(psycopg.Error):
                one.close()
        connections.close_all()
    wait_ended(stage, orders)
