"""docker-compose.yml, the Dockerfile and CI, read as text: there is no Docker engine to ask."""

import re
import stat
from typing import Any

import pytest
import yaml

from embedded.checkout import ROOT
from embedded.processes import COMPONENTS, WORKERS, default_pool, worker_command
from pipeline.topics import QUEUES

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
IMAGES_OF_OTHERS = ("postgres", "valkey")


def queues_of(service: dict[str, Any]) -> list[str]:
    command = service.get("command", [])
    if command[:4] != ["python", "-m", "embedded", "worker"]:
        return []
    return [word for word in command[4:] if word in COMPONENTS]


def test_the_supervisor_knows_the_queues_of_the_topics() -> None:
    assert COMPONENTS == QUEUES


def test_every_queue_has_one_worker_in_the_supervisor() -> None:
    served = [queue for worker in WORKERS for queue in worker.queues]

    assert sorted(served) == sorted(COMPONENTS)


def test_every_queue_has_one_container_with_its_components_name() -> None:
    served = {queue: name for name, service in SERVICES.items() for queue in queues_of(service)}

    assert served == COMPONENTS
    assert sorted(queue for service in SERVICES.values() for queue in queues_of(service)) == sorted(COMPONENTS)


def test_what_computes_runs_in_a_process_and_what_waits_in_threads() -> None:
    assert [(worker.name, worker.pool) for worker in WORKERS] == [
        ("worker-exits", "threads"),
        ("worker-light", "threads"),
        ("worker-strategies", "prefork"),
        ("worker-research", "prefork"),
    ]
    assert default_pool(("orders", "money")) == "threads"
    assert default_pool(("orders", "strategies")) == "prefork"


def test_what_protects_positions_shares_a_worker_with_nothing() -> None:
    [lane] = [worker for worker in WORKERS if "exits" in worker.queues]
    [container] = [service for service in SERVICES.values() if "exits" in queues_of(service)]

    assert (lane.name, lane.queues, lane.node) == ("worker-exits", ("exits",), "ExitTracker")
    assert queues_of(container) == ["exits"]


def test_a_workers_name_in_flower_is_its_components() -> None:
    command = worker_command(WORKERS[1])

    assert "DataCollect+SchedulerService+PositionTracker+MoneyManager+OrderManager@%h" in command
    assert "--task-events" in command
    assert "--task-events" not in worker_command(WORKERS[1], has_task_events=False)


def test_a_process_that_computes_is_replaced_when_it_holds_too_much() -> None:
    for worker in WORKERS:
        assert ("--max-memory-per-child" in worker_command(worker)) is (worker.pool == "prefork")


def test_compose_holds_no_secret() -> None:
    settings = [
        (name, value) for service in SERVICES.values() for name, value in service.get("environment", {}).items()
    ]
    secrets = {name: value for name, value in settings if re.search("PASSWORD|AUTH|KEY|_URL", name)}

    assert sorted(secrets) == [
        "DATABASE_URL", "FLOWER_BASIC_AUTH", "POSTGRES_PASSWORD", "R3EDGE_ALPHA_VANTAGE_KEY",
        "R3EDGE_ENCRYPTION_KEYS", "R3EDGE_SECRET_KEY", "REDIS_PASSWORD", "REDIS_URL", "VALKEYCLI_AUTH",
    ]  # fmt: skip
    assert secrets.pop("R3EDGE_ALPHA_VANTAGE_KEY") is None  # optional: the value of whoever starts it, or none
    assert [value for value in secrets.values() if not re.search(r"\$\{[A-Z0-9_]+:\?", value)] == []
    assert re.findall(r"://[^:/\s]*:(?!\$\{)[^@\s]+@", (ROOT / "docker-compose.yml").read_text()) == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_restarts_and_is_watched(name: str) -> None:
    service = SERVICES[name]

    if name == "prepare":
        assert service["restart"] == "on-failure"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]
    if name not in IMAGES_OF_OTHERS:
        assert service["image"] == "r3edge"
        assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_nothing_of_ours_starts_before_the_migrations_are_done() -> None:
    waiting = [name for name in SERVICES if name not in (*IMAGES_OF_OTHERS, "prepare")]

    assert all(
        SERVICES[name]["depends_on"]["prepare"] == {"condition": "service_completed_successfully"} for name in waiting
    )
    assert len(waiting) == 13


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published == ["127.0.0.1:8000:8000", "127.0.0.1:5555:5555"]


def test_volumes_are_declared() -> None:
    mounted = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}

    assert mounted == set(COMPOSE["volumes"])


def test_the_image_is_built_from_pinned_requirements_and_runs_as_a_user_with_a_name() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(lines)

    assert "--require-hashes -r requirements.txt" in text
    assert "requirements-dev" not in text
    assert 'ARG EXTRAS=""' in lines
    assert '--require-hashes -r "requirements-$extra.txt"' in text
    assert SERVICES["web"]["build"]["args"] == {"EXTRAS": "${R3EDGE_EXTRAS:-}"}
    assert "useradd" in text
    assert [line for line in lines if line.startswith("USER ")] == ["USER r3edge"]
    assert re.findall(r"(?i)(?:password|secret|token|key)\w*=\S+", text) == []


def test_what_must_not_enter_the_image_is_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")

    assert {"var", ".env", ".git", ".venv"} <= set(ignored)


def test_ci_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci/run"
    lines = script.read_text().splitlines()

    assert "set -euo pipefail" in lines
    assert lines[-2:] == ["./r3edge check", "./r3edge test"]
    assert script.stat().st_mode & stat.S_IXUSR
