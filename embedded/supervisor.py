"""Starts processes in order, keeps them running, and stops them in order, whatever they are.

A process counts as started when it is healthy. Starting fails as a whole: the first process that cannot start is
named, with the end of its log, and everything already started is stopped again. Once started, nothing is given up on.
"""

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedded.child import Backoff, Child, Guard, Process, Say, StartFailed, reason_of
from embedded.memory import tree_megabytes


class Supervisor:
    """The children of this process. Use `supervised()`, which always stops them."""

    def __init__(self, *, log_dir: Path, say: Say, backoff: Backoff) -> None:
        self.children: dict[str, Child] = {}
        self.guard = Guard()
        self._log_dir, self._say, self._backoff = log_dir, say, backoff
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.began_at = time.monotonic()

    async def start(self, *processes: Process) -> None:
        """Start these at the same time and wait until all are healthy; raises StartFailed for the first that is not."""
        await together(*(self._start(process) for process in processes))

    async def _start(self, process: Process) -> None:
        child = Child(process, log_dir=self._log_dir, guard=self.guard, say=self._say, backoff=self._backoff)
        self.children[process.name] = child
        await child.start()
        self._keepers[process.name] = asyncio.create_task(child.keep(), name=f"keep {process.name}")

    async def discard(self, name: str) -> None:
        """Stop one child and forget it."""
        if child := self.children.pop(name, None):
            await child.stop()
        if keeper := self._keepers.pop(name, None):
            keeper.cancel()

    async def run_once(self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Run a command to its end, its output in the log of that name; raises StartFailed when it fails."""
        process = Process(name=name, command=command, env=env, cwd=cwd)
        child = Child(process, log_dir=self._log_dir, guard=self.guard, say=self._say)
        self.children[name] = child
        code = await child.run()
        del self.children[name]
        if code != 0:
            raise StartFailed(f"{name} failed ({reason_of(code)}); {child.log_tail()}")

    async def stop(self) -> None:
        """Stop everything, in the order of the processes' ranks; those of one rank together."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        ranks = defaultdict(list)
        for child in self.children.values():
            ranks[child.process.stop_rank].append(child)
        for rank in sorted(ranks):
            await asyncio.gather(*(child.stop() for child in ranks[rank]), return_exceptions=True)
        self.guard.close()

    def megabytes(self) -> float:
        """Memory of this process and all below it, shared pages counted once."""
        return tree_megabytes(os.getpid())

    def elapsed(self) -> float:
        return time.monotonic() - self.began_at


async def together(*works: Coroutine[Any, Any, object]) -> None:
    """Do these at the same time; the first failure ends the others and is raised as it was, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


@contextlib.asynccontextmanager
async def supervised(*, log_dir: Path, say: Say, backoff: Backoff | None = None) -> AsyncIterator[Supervisor]:
    """A supervisor for the length of the block; at its end, however it ends, every child is stopped."""
    supervisor = Supervisor(log_dir=log_dir, say=say, backoff=backoff or Backoff())
    try:
        yield supervisor
    finally:
        # Shielded: the cancellation that ended the block must not interrupt the stopping.
        await asyncio.shield(asyncio.ensure_future(supervisor.stop()))
