"""Requests that fit the API's document, and requests that do not, made by schemathesis (L12).

No answer is a 5xx, and each is as the document says: its status, headers, content type and shape.
Afterwards the views are a fold of the log (L7). Which requests are made follows from a number, so
that what was found can be found again.
"""

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from pydantic import BaseModel

from domain.actors import PrincipalRole
from scripts.cli import counting
from scripts.testbed.harness import callers, connected, require
from scripts.testbed.judging import Check, audited, caught_up
from scripts.testbed.services import service

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
NOTHING = "^$"
_NEVER_ENDS = "^/events/stream$"
_ENDS_ALL = "^/keys/"  # the caller could revoke its own key
_ROLES: tuple[PrincipalRole, ...] = ("supervisor", "admin", "requester", "auditor", "agent")
_ANSWER_SECONDS = 60
_PHASES = "examples,coverage,fuzzing,stateful"
_CASES_OF_AN_EXAMPLE = 1000  # so many a run for each example of an operation, more or less
_MOST_EXAMPLES = 50
_SHOWN_CHARACTERS = 10_000


class _Cases(BaseModel):
    generated: int


class _Report(BaseModel):
    test_cases: _Cases


async def contract(
    url: str, cases: int, check: Check = audited, without: str = NOTHING
) -> Counter[str]:
    """Send at least so many requests; return how many it were. Raises PromiseBroken.

    `without`: leave out the paths that this regular expression finds.
    """
    counted: Counter[str] = Counter()
    async with service("projecting", url) as port, connected(url) as database:
        roles = cycle(await callers(url, *_ROLES))
        with counting("asking", cases, "requests") as count:
            while counted["cases"] < cases:
                counted["runs"] += 1
                examples = (cases - counted["cases"]) // _CASES_OF_AN_EXAMPLE
                examples = min(max(examples, 1), _MOST_EXAMPLES)
                sent = await _run(port, examples, counted["runs"], without, next(roles))
                counted["cases"] += sent
                count(sent)
        await caught_up(database)
        await check(database)
    return counted


async def _run(port: int, examples: int, seed: int, without: str, caller: Mapping[str, str]) -> int:
    """Ask once through all phases; return the number of requests."""
    with tempfile.TemporaryDirectory(prefix="casebook-contract-") as folder:
        report = Path(folder) / "report.json"
        options = {
            "phases": _PHASES,
            "checks": ",".join(CHECKS),
            "report": "json",
            "report-json-path": str(report),
            "suppress-health-check": "all",
            "max-examples": str(examples),
            "seed": str(seed),
            "header": f"Authorization: {caller['Authorization']}",
            "exclude-path-regex": f"{without}|{_NEVER_ENDS}|{_ENDS_ALL}",
            "request-timeout": str(_ANSWER_SECONDS),
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        document = f"http://127.0.0.1:{port}/openapi.json"
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", document, "--no-shrink", *words),
            stdout=PIPE,
            stderr=STDOUT,
            cwd=folder,
        )
        try:
            out, _ = await asking.communicate()
        finally:
            if asking.returncode is None:
                asking.kill()
        said = out.decode()
        failed = max(0, said.find("FAILURES"))
        require(asking.returncode == 0, said[failed : failed + _SHOWN_CHARACTERS])
        return _Report.model_validate_json(report.read_bytes()).test_cases.generated
