"""How much memory a tree of processes takes, shared pages counted once (PSS), from /proc; RSS where PSS is hidden."""

from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """The process and everything below it, as far as /proc shows; only `pid` itself where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended while we looked
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    tree = [pid]
    for parent in tree:
        tree.extend(children.get(parent, []))
    return tree


def _kilobytes(path: Path, label: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(label)), None)


def megabytes(pid: int) -> float:
    """Memory of one process in MB; 0 when it has ended."""
    home = PROC / str(pid)
    return (_kilobytes(home / "smaps_rollup", "Pss:") or _kilobytes(home / "status", "VmRSS:") or 0) / 1024


def tree_megabytes(pid: int) -> float:
    return sum(map(megabytes, descendants(pid)))
