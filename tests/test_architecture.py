"""The layout shows the architecture; here is what holds it."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("domain", "eventstore", "projections", "api", "scripts")
"""Each may import itself and those before it."""

THIRD_PARTY = {
    "domain": {"pydantic"},
    "eventstore": {
        "cachetools",
        "bson",
        "cryptography",
        "motor",
        "orjson",
        "prometheus_client",
        "pydantic",
        "pymongo",
        "uuid_utils",
    },
    "projections": {"opentelemetry", "prometheus_client", "pydantic", "regex"},
    "api": {
        "cachetools",
        "fastapi",
        "holidays",
        "httpx",
        "jwt",
        "limits",
        "opentelemetry",
        "orjson",
        "prometheus_client",
        "pydantic",
        "starlette",
        "structlog",
        "uuid_utils",
    },
    "scripts": {
        "httptools",
        "bson",
        "cryptography",
        "fastapi",
        "httpx",
        "opentelemetry",
        "orjson",
        "prometheus_client",
        "pydantic",
        "pymongo",
        "rich",
        "structlog",
        "uvicorn",
        "uvloop",
    },
}
FOR_DEVELOPING = {
    "scripts/bench/found.py": {"matplotlib"},
    "scripts/bench/peer.py": {"eventsourcing", "psycopg"},
    "scripts/bench/console.py": {"playwright"},
    "scripts/testbed/browser.py": {"playwright"},
    "scripts/testbed/screenshots.py": {"playwright"},
}
"""What is not there where Casebook only runs, and who may import it."""
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The top-level names that a module imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their room"
            found.add((node.module or "").partition(".")[0])
    return found


def _is_left_out(path: str, patterns: list[str]) -> bool:
    """Whether Docker leaves a path, or a folder that it is in, out of what it is given."""
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    forms = [re.escape(p).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*") for p in patterns]
    return any(re.fullmatch(form, place) for form in forms for place in above)


def test_no_secret_gets_near_an_image():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for secret in (
        *(".env", ".env.production", "api/.env", "data/admin-key", "data/master-key"),
        *("data/database/WiredTiger", "signing-key.pem", "scripts/tls.key", "keys/jwt.pem"),
        *(".git/config", ".venv/bin/python", "export.ndjson", "api/data/admin-key"),
    ):
        assert _is_left_out(secret, patterns), secret
    copied = re.findall(r"^COPY (\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name in copied:
        files = [ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*.*")
        for file in files:
            if "__pycache__" not in file.parts:
                assert not _is_left_out(str(file.relative_to(ROOT)), patterns), file


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_run_one_way_and_each_room_has_its_tools(path):
    layer = path.relative_to(ROOT).parts[0]
    allowed = set(LAYERS[: LAYERS.index(layer) + 1]) | THIRD_PARTY[layer]
    allowed |= FOR_DEVELOPING.get(path.relative_to(ROOT).as_posix(), set())
    assert imports(path) - allowed - sys.stdlib_module_names == set()


def _part(module: Path) -> str:
    """The part of its room that a module is in: a folder, its routes, or the module alone."""
    parts = module.relative_to(ROOT).parts[1:]
    if len(parts) == 1:
        return parts[0]
    return f"{parts[0]}/routes.py" if parts[-1] == "routes.py" else f"{parts[0]}/"


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_inside_a_room_run_one_way(layer):
    """No part of a room imports one that imports it, by whatever way around."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in MODULES
        if path.relative_to(ROOT).parts[0] == layer and path.name != "__init__.py"
    }
    arrows: dict[str, set[str]] = {_part(path): set() for path in modules.values()}
    for path in modules.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names)):
                    if name in modules:
                        arrows[_part(path)].add(_part(modules[name]))
    for part, behind in arrows.items():
        behind.discard(part)
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"against the grain in {layer}: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("path", sorted((ROOT / "domain").rglob("*.py")), ids=lambda p: p.name)
def test_the_core_is_pure(path):
    """L6: nothing in domain reads a clock, makes an id by chance, or does I/O."""
    impure = {"asyncio", "io", "os", "pathlib", "random", "secrets", "socket", "time"}
    assert imports(path) & impure == set()
    text = path.read_text()
    for call in (
        "uuid1(",
        "uuid4(",
        "uuid6(",
        "uuid7(",
        "now(",
        "today(",
        "utcnow(",
        "open(",
        "print(",
        "input(",
    ):
        assert f".{call}" not in text
        assert f" {call}" not in text


def test_only_the_store_writes_to_the_log():
    """L1: no other module names the collection; the store's own calls have a test of their own."""
    naming = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Constant) and node.value == "ticket_events")
        or (isinstance(node, ast.Name) and node.id == "TICKET_EVENTS")
    }
    named_by = {
        "eventstore/event_document.py",
        "eventstore/log.py",
        "eventstore/personal/vault.py",
        "eventstore/redactions.py",
    }
    described = "scripts/reference/views.py"  # in words, for a page
    assert naming == {*named_by, "scripts/verify.py", described}
    vault = (ROOT / "eventstore" / "personal" / "vault.py").read_text()
    assert re.findall(r"self\._log\b.{0,5}", vault) == ["self._log = da", "self._log.find"]
    parts = ("verify.py", "hash_chains.py", "signed_checkpoints.py")
    verifier = "".join((ROOT / "scripts" / part).read_text() for part in parts)
    for write in ("insert_", "update_", "delete_", "replace_", "drop", "bulk_write", "write("):
        assert f".{write}" not in verifier, "the verifier only reads"


def test_only_routes_and_what_serves_them_know_http():
    """Stores and background tasks can be used, and tested, without a server."""
    knowing = {
        path.relative_to(ROOT)
        for path in MODULES
        if "scripts" not in path.parts and imports(path) & {"fastapi", "starlette"}
    }
    others = {path for path in knowing if path.name != "routes.py"}
    assert {path for path in others if path.parts[:2] != ("api", "http")} == {Path("api/app.py")}


def test_no_other_module_knows_the_driver():
    """Only `eventstore/mongo/`, and command lines that measure, break or set up a database."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if imports(path) & {"bson", "motor", "pymongo"}
    }
    rooms = ("eventstore/mongo/", "scripts/")
    assert {path for path in found if not path.startswith(rooms)} == set()


def test_the_store_names_no_concrete_event():
    """Neither by class, nor by stored name, nor a field of its data but `redacts`, by which any
    event says to the store what it is to open no more.
    """
    from domain.tickets import EVENT_TYPES  # noqa: PLC0415

    fields = {field for cls in EVENT_TYPES.values() for field in cls.__annotations__} - {"redacts"}
    named = {*EVENT_TYPES, *(f"data.{field}" for field in fields)}
    for path in (ROOT / "eventstore").rglob("*.py"):
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value, node.value.removeprefix("$")}
            elif isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("domain.tickets"), path
        assert found & named == set(), path
