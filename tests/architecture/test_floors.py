"""The house keeps its shape: floors, queues, bells, sweeps and sizes, checked against what really stands."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml
from django.apps import apps
from django.db.models import Field

from embedded.processes import COMPONENTS, WORKERS
from pipeline.topics import QUEUES, TASK_ROUTES, TOPICS, Bell, Topic
from r3edge_site.celery import app as celery_app
from r3edge_site.schedule import SCHEDULE

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {
    "domain": 0, "pipeline": 1, "exchanges": 2.0, "marketdata": 2.5, "strategies": 4, "orders": 4, "trading_sessions": 5,
    "positions": 6, "backtesting": 6, "money": 7, "r3edge_site": 9,
}  # fmt: skip
PACKAGES = [
    "backtesting", "benchmarks", "chaos", "domain", "embedded", "exchanges", "marketdata", "money", "orders", "pipeline",
    "positions", "r3edge_site", "sessions", "simulator", "strategies",
]  # fmt: skip
SOURCES = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "migrations" not in path.parts and path.read_text().strip()
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
celery_app.loader.import_default_modules()
TASKS = {name: task for name, task in celery_app.tasks.items() if not name.startswith("celery.")}
WAKES = [bell for route in TOPICS.values() for bell in route.wakes]
BELLS = sorted({(task, bell.argument) for bell in WAKES for task in (bell.task, bell.urgent) if task})


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_by(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


def references() -> list[tuple[str, str, str]]:
    """Every foreign key of ours: the app it is in, the app it points to, and its name."""
    found = []
    for model in apps.get_models():
        if model._meta.app_label in FLOORS:
            for field in model._meta.get_fields():
                if isinstance(field, Field) and field.is_relation and field.related_model is not None:
                    target = field.related_model._meta.app_label
                    found.append((model._meta.app_label, target, f"{model.__name__}.{field.name}"))
    return found


def test_foreign_keys_go_down_the_floors_only() -> None:
    up = [
        name
        for app, target, name in references()
        if target != "auth" and (FLOORS[target] > FLOORS[app] or (FLOORS[target] == FLOORS[app] and target != app))
    ]

    assert up == []
    assert ("orders", "exchanges", "Order.account") in references()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_tasks_first_name_is_a_queue(name: str) -> None:
    assert name.split(".")[0] in QUEUES


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_message_carries_ids_only(name: str) -> None:
    arguments = inspect.signature(TASKS[name].run).parameters

    assert [argument for argument in arguments if not re.search(r"_ids?$", argument)] == []


def test_every_topic_has_a_route() -> None:
    assert set(TOPICS) == set(Topic)


@pytest.mark.parametrize(("task", "argument"), BELLS)
def test_every_bell_wakes_a_task_that_takes_its_ids(task: str, argument: str) -> None:
    assert list(inspect.signature(TASKS[task].run).parameters) == [argument]


@pytest.mark.parametrize("entry", SCHEDULE, ids=lambda entry: entry.task)
def test_every_periodic_task_exists_and_takes_nothing(entry: object) -> None:
    task = TASKS[entry.task]  # type: ignore[attr-defined]

    assert list(inspect.signature(task.run).parameters) == []
    assert entry.reason  # type: ignore[attr-defined]


def test_every_app_that_waits_for_somebody_is_swept_by_the_schedule() -> None:
    sweeping = {app.name for app in apps.get_app_configs() if (ROOT / app.name / "tasks.py").exists()} - {"pipeline"}

    # Studies are of the app that backtests, on a queue of their own.
    assert {entry.task.split(".")[0] for entry in SCHEDULE if entry.task.endswith(".sweep")} == sweeping | {
        "optimising"
    }


def test_the_supervisor_serves_every_queue_once_under_the_owners_names() -> None:
    served = [queue for worker in WORKERS for queue in worker.queues]

    assert sorted(served) == sorted(QUEUES)
    assert COMPONENTS == QUEUES


def test_docker_compose_has_a_worker_for_every_queue_under_the_owners_names() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    served: dict[str, str] = {}
    for name, service in services.items():
        command = service.get("command") or []
        if "worker" in command:
            served |= {word: name for word in command[command.index("worker") + 1 :] if word in QUEUES}

    assert served == QUEUES


def test_routes_are_built_from_the_queues() -> None:
    assert {pattern: route["queue"] for pattern, route in TASK_ROUTES.items()} == {f"{q}.*": q for q in QUEUES}
    assert all(isinstance(bell, Bell) for route in TOPICS.values() for bell in route.wakes)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_no_file_is_longer_than_six_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_says_what_it_promises(path: Path) -> None:
    is_bare = path.name in ("apps.py", "__init__.py")

    assert is_bare or ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_name_says_nothing(path: Path) -> None:
    classes = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]

    assert [name for name in classes if re.search(r"(Manager|Helper|Util|Utils|Handler|Processor)$", name)] == []
    assert path.stem not in ("utils", "util", "helpers", "helper", "misc", "common")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_signal_of_django_hides_a_call(path: Path) -> None:
    assert not re.search(
        r"^\s*from django\.(db\.models\.signals|dispatch|core\.signals)", path.read_text(), re.MULTILINE
    )


def test_one_file_imports_ccxt() -> None:
    importing = [relative(path) for path in SOURCES if "ccxt" in imported_by(path)]

    assert importing == ["exchanges/ccxt_gateway.py"]


def test_the_project_speaks_only_of_itself() -> None:
    texts = [*SOURCES, *TESTS, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.txt"), *ROOT.glob("*.yml")]
    # Put together here, so that this file does not name them either.
    hosts = re.compile("|".join(("files.python" + "hosted", "registry.npm" + "js", "deb.debian" + ".org")))

    assert [relative(path) for path in texts if hosts.search(path.read_text())] == []
