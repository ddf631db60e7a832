"""Becomes one child of the supervisor: ties it to the supervisor's life, drops root, then execs the command.

A program of its own and not a `preexec_fn`, which is unsafe once threads run. Standard library only, `python -I -S`.
Arguments: the supervisor's pid, the signal to get when the supervisor dies, `uid:gid` or `-`, the command.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(supervisor: int, death_signal: int, owner: str, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if owner != "-":
        uid, gid = (int(part) for part in owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if libc is not None:
        # After the change of user, which clears it. Elsewhere than on Linux only the guard ends orphans.
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit("the supervisor died before its child began")
    os.execvp(command[0], command)  # noqa: S606 - becoming that command is the purpose


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
