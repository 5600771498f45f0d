"""What the pages say to type works, in the order in which it stands, and is answered as they say.

Each page gets a fresh server, whose files are in `data/`, and one shell, in a folder that looks
like a checkout. All its blocks of `sh` are typed; what cannot be is `console`, and says by a word
of NOT_TYPED why. Behind what is typed, a block of `json` or `text` shows what is answered.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import pytest

from api.settings import Settings
from scripts.testbed.harness import READY_SECONDS, free_port, until
from scripts.testbed.load import Connection
from scripts.testbed.patience import patience
from tests.processes import ROOT, asked_at, environment, script

PAGES = sorted([ROOT / "README.md", ROOT / "docs/tutorial.md", *ROOT.glob("docs/guides/*.md")])
NOT_TYPED = re.compile(
    r"docker|mongodb(\+srv)?://|CASEBOOK_ADMIN_URL|atlas|systemctl|git clone|casebook serve|"
    r"make (test|soak|check|bench|mutants|client|clean)|pip install|mkdocs"
)
"""What a block of `console` needs that is not here, or would take too long."""
# A server runs, which is the page's own; what the shell says is told from what was typed by marks.
SHELL = """
set -eu
make() { case "$1" in run) ;; demo) casebook demo ;; *) return 1; esac; }
casebook() { .venv/bin/python -S tests/forked.py "$FORKING" scripts.casebook "$@"; }
while read -r block; do . "$block" </dev/null; echo; echo "typed $block"; done
"""
PROBLEM = "urn:casebook:problem:"
BLOCK_SECONDS = 60


class Example(NamedTuple):
    """A block to type, and what the page shows of its answers."""

    commands: str
    shown: Sequence[str]


def examples(page: str) -> list[Example]:
    found: list[Example] = []
    for language, text in re.findall(r"^```(\w+).*?\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "sh":
            found.append(Example(text, []))
        elif language in ("json", "text") and found:
            found[-1] = Example(found[-1].commands, [*found[-1].shown, text])
    return found


# --- comparing ------------------------------------------------------------------------------------


def documents(text: str) -> list[object]:
    """Return the JSON documents in a text, whatever stands between them."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while start := re.compile(r"[{\[]").search(text, at):
        try:
            document, at = decoder.raw_decode(text, start.start())
            found.append(document)
        except ValueError:
            at = start.end()
    return found


def is_shown(shown: object, answer: object) -> bool:
    """Say whether an answer has all that is shown of it."""
    match shown, answer:
        case dict(), dict():
            return all(key in answer and is_shown(shown[key], answer[key]) for key in shown)
        case list(), list():
            more = len(answer) - len(shown)
            return more >= 0 and all(map(is_shown, shown, answer))
        case str(), str():
            return is_written(shown, answer)
        case _:
            return type(shown) is type(answer) and shown == answer


def is_written(shown: str, text: str) -> bool:
    """Say whether a text is what is shown, in which `...` stands for anything.

    What has only digits before it is different each time: an id, a hash or a time.
    """
    if re.fullmatch(r"(?=\D*\d)[0-9a-f:T-]+\.\.\.", shown):
        return True
    pattern = r"\s+".join(map(re.escape, shown.split())).replace(re.escape("..."), ".*?")
    return bool(re.fullmatch(pattern, text.strip(), re.DOTALL))


def check(example: Example, output: str) -> None:
    """Raise AssertionError unless the answers are those of the page, and refusals are shown."""
    expected = []
    for shown in example.shown:
        whole = re.sub(r",\s*\.\.\.(?=\s*[}\]])", "", shown)
        if found := documents(whole):
            expected += found
        else:
            assert is_written(shown, output), f"{example.commands}printed\n{output}"
    for answer in documents(output):
        if expected and is_shown(expected[0], answer):
            del expected[0]
        elif isinstance(answer, dict):
            refused = str(answer.get("type", "")).startswith(PROBLEM)
            assert not refused, f"{example.commands}is refused, which is not shown: {answer}"
    assert not expected, f"{example.commands}is not answered\n{expected[0]}\nbut\n{output}"


def test_an_answer_is_held_to_what_is_shown_of_it():
    assert documents('x {"a": 1}\n[2] {') == [{"a": 1}, [2]]
    assert is_shown({"a": ["0190...", 2]}, {"a": ["abc", 2, 3], "b": 4})
    assert not is_shown({"a": 1}, {"a": True})
    assert not is_shown({"a": "x..."}, {"a": "yx"})
    assert not is_shown([1, 2], [1])
    shown = Example("c\n", ['{"a": "x...", ...}'])
    check(shown, '{"c": 1} {"a": "xy"}')
    with pytest.raises(AssertionError, match="is not answered"):
        check(shown, '{"a": "c"}')
    with pytest.raises(AssertionError, match="is refused"):
        check(shown, f'{{"type": "{PROBLEM}x"}} {{"a": "x"}}')
    check(Example("c\n", ["3 events\n..."]), "3  events\nand more\n")
    with pytest.raises(AssertionError, match="printed"):
        check(Example("c\n", ["3 events\n"]), "4 events\n")


# --- typing ---------------------------------------------------------------------------------------


@asynccontextmanager
async def checkout(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Make a folder look like a checkout in which `make run` runs; yield the environment."""
    for each in ROOT.iterdir():
        if each.name not in ("data", ".venv"):
            (folder / each.name).symlink_to(each)
    (folder / ".venv").symlink_to(sys.prefix)
    socket = Path(mkdtemp(), "forking")  # a path that is short enough
    env = environment(folder, free_port()) | {"PYTHONPATH": str(ROOT), "FORKING": str(socket)}
    served = await script("scripts.serve", env=env)
    try:
        await until(partial(is_shown_whole, env), READY_SECONDS, "a server answers")
        with asked_at(env["FORKING"]):
            yield env
    finally:
        served.terminate()
        await served.communicate()


async def is_shown_whole(env: dict[str, str]) -> bool:
    """Say whether the server answers, and its views have all that is in the log."""
    try:
        key = Path(env["CASEBOOK_DATA_DIR"], "admin-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        async with Connection(int(env["CASEBOOK_PORT"]), headers) as connection:
            answer = await connection.get("/projections")
            return bool(answer.json()["missing_events"] == 0)
    except (OSError, KeyError):
        return False


async def typed(page: Sequence[Example], folder: Path, env: dict[str, str]) -> None:
    """Type a page's blocks, each when lists show what the one before has done."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-c", SHELL),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**24,
        cwd=folder,
        env={name: text for name, text in env.items() if name != "CASEBOOK_DATA_DIR"},
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        for number, example in enumerate(page):
            path = folder / f".block-{number}"
            path.write_text(example.commands.replace(":8000", f":{env['CASEBOOK_PORT']}"))
            shell.stdin.write(f"{path}\n".encode())
            mark = f"\ntyped {path}\n".encode()
            try:
                async with asyncio.timeout(patience(BLOCK_SECONDS)):
                    output = (await shell.stdout.readuntil(mark)).removesuffix(mark).decode()
                await until(partial(is_shown_whole, env), READY_SECONDS, "views are current")
            except asyncio.IncompleteReadError as error:
                pytest.fail(f"{example.commands}failed:\n{error.partial.decode()}")
            check(example, output)
    finally:
        if shell.returncode is None:
            shell.kill()
        await shell.wait()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page.read_text())], ids=lambda page: page.stem
)
async def test_a_page_can_be_typed_as_it_stands(page, tmp_path):
    async with checkout(tmp_path) as env:
        await typed(examples(page.read_text()), tmp_path, env)


def test_what_is_not_typed_says_why():
    for page in PAGES:
        fences = re.findall(r"^```(\S*).*?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for language, text in fences:
            assert language not in ("", "bash", "shell"), f"{page.name}: {text}"
            assert language != "console" or NOT_TYPED.search(text), f"{page.name}: {text}"


def test_every_setting_is_named_in_a_page():
    pages = "".join(page.read_text() for page in (*PAGES, *ROOT.glob("docs/reference/*.md")))
    for field in Settings.model_fields:
        assert f"`CASEBOOK_{field.upper()}`" in pages


def test_every_script_that_a_page_names_is_there():
    for page in PAGES:
        for name in re.findall(r"`python -m (scripts\.[\w.]+)", page.read_text()):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
