"""A supervisor with real services and stand-in processes, for a test to kill: `python -m tests.embedded.stand_in HOME`.

One child has a child of its own that ignores every polite signal, as a busy pool process would.
"""

import asyncio
import sys
from pathlib import Path

import psycopg

from embedded.checkout import Checkout
from embedded.child import Process
from embedded.running import start_services
from embedded.supervisor import supervised

STUBBORN = 'trap "" TERM INT HUP; sleep 1000 & echo ready; while :; do wait; done'
BUSY_QUERY = "SELECT pg_sleep(1000)"


async def main(checkout: Checkout) -> None:
    checkout.make()
    async with supervised(log_dir=checkout.log_dir, say=print) as supervisor:
        urls = await start_services(supervisor, checkout)
        env = {"PATH": "/usr/bin:/bin"}
        await supervisor.start(
            Process("worker", ["/bin/sh", "-c", f"/bin/sh -c '{STUBBORN}' & wait"], env),
            Process("beat", ["/bin/sleep", "1000"], env),
        )
        async with await psycopg.AsyncConnection.connect(urls["DATABASE_URL"]) as connection:
            sys.stdout.write("up\n")
            sys.stdout.flush()
            await connection.execute(BUSY_QUERY)


if __name__ == "__main__":
    asyncio.run(main(Checkout(Path(sys.argv[1]))))
