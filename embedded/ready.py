"""How a worker or beat tells the supervisor that it works: a file with its pid, cheaper than asking through Celery.

`mark()` does nothing outside the supervisor, so the Celery app may always call it.
"""

import os
from pathlib import Path


def path_of(run_dir: Path, name: str) -> Path:
    return run_dir / "ready" / name


def mark(name: str | None = None) -> None:
    """Say that this process is ready; `name` defaults to the one that the supervisor gave it."""
    run_dir, name = os.environ.get("R3EDGE_RUN_DIR"), name or os.environ.get("R3EDGE_PROCESS_NAME")
    if not run_dir or not name:
        return
    path = path_of(Path(run_dir), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{name}.{os.getpid()}")
    half.write_text(str(os.getpid()))
    half.replace(path)


def is_marked(run_dir: Path, name: str, group: int) -> bool:
    """Whether `name` was marked by a process of that process group, not by an earlier one of the same name."""
    try:
        pid = int(path_of(run_dir, name).read_text())
        return os.getpgid(pid) == group
    except (OSError, ValueError):
        return False
