"""`casebook`: one command in front of all command lines."""

import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from api.version import version
from scripts import commands, import_log
from tests.processes import environment, script

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
COMMANDS = commands.commands()


def modules():
    """The modules of scripts/ that can be run: those with a main of their own."""
    found = {path for path in SCRIPTS.glob("*.py") if "__main__" in path.read_text()}
    found |= {*SCRIPTS.glob("*/__main__.py")}
    found |= {path for path in SCRIPTS.glob("testbed/*.py") if "__main__" in path.read_text()}
    return {".".join(path.relative_to(SCRIPTS).with_suffix("").parts) for path in found}


def run(*words, options=()):
    return subprocess.run(
        [sys.executable, *options, "-m", "scripts.casebook", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_each_command_line_is_a_command():
    named = [command.module for command in COMMANDS.values()]
    assert set(named) == modules() - {"casebook", "commands", "testbed.child"}
    assert len(named) == len(set(named))
    assert set(commands.FORMATS) == import_log.FORMATS.keys()


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_without_words_it_lists_all_commands_by_what_one_wants_to_do(words):
    answer = run(*words)
    assert answer.returncode == 0
    assert re.findall(r"^  ([a-z-]+)", answer.stdout, re.MULTILINE) == [*COMMANDS]
    assert re.findall(r"^(\w.*):$", answer.stdout, re.MULTILINE) == [*commands.groups()]
    assert len(answer.stdout.splitlines()) < 60
    assert max(map(len, answer.stdout.splitlines())) < 90


def test_it_says_its_version():
    assert run("--version").stdout == f"casebook {version()}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_nothing_but_the_standard_library(name):
    """So it comes within a tenth of a second."""
    answer = run(name, "--help", options=("-X", "importtime"))
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"usage: casebook {name} ")
    assert COMMANDS[name].about.splitlines()[0] in answer.stdout
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    rooms = {each.partition(".")[0] for each in imported} - sys.stdlib_module_names
    ours = {each for each in imported if each.partition(".")[0] in ("eventstore", "projections")}
    assert {"scripts", "api"} <= rooms
    assert rooms & {"pydantic", "pymongo", "motor", "fastapi", "rich", "limits"} == set()
    assert ours == set()


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_takes_the_words_behind_it(name):
    """What it is asked for help with it does not do, by whichever of its names."""
    module = f"scripts.{COMMANDS[name].module}"
    asked = await script(module, "--help", env=dict(os.environ))
    out, err = await asked.communicate()
    assert asked.returncode == 0, err
    assert out.decode().startswith(f"usage: casebook {name} ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replya",), "there is no command replya; did you mean replay?"),
        (("nope",), "there is no command nope: casebook lists them"),
        (("serve", "--worker", "0"), "argument --workers: '0' is no number from 1 to 64: "),
        (("serve", "--wokers", "2"), "unrecognized arguments: --wokers 2; did you mean --workers?"),
        (("keys",), "the following arguments are required: COMMAND: casebook keys --help"),
        (("keys", "mke"), "'revoke'); did you mean make?"),
        (("keys", "make", "sam", "agnet"), "did you mean agent?"),
        (("keys", "make", "sam", "agent", "--dys", "3"), "did you mean --days?"),
        (("keys", "make", "sam", "agent", "--days", "0"), "'0' is no number from 1 to 36500"),
        (("replay", "--until", "yesterday"), "'yesterday' is no time: write 2026-03-31"),
        (("replay", "--until", "2026-03-31T12:00:00"), "has no zone: write 2026-03-31T12:00:00Z"),
        (("replay", "--workers", "many"), "'many' is no number from 0 to 64"),
        (("replay", "--name", "x"), "--name and --by go with --until"),
        (("replay", "--rollback", "--keep-old"), "go with building all views"),
        (("restore",), "one of the arguments PATH --by-database-tools is required"),
        (("import", "servicenwo", "x.csv"), "did you mean servicenow?"),
        (("soak", "race", "more"), "unrecognized arguments: more"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_mistyped_is_told_in_one_line(words, said):
    answer = run(*words)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert said in answer.stderr


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_refuses_words_that_it_does_not_know(name, tmp_path):
    asked = await script("scripts.casebook", name, "--nonsense", env=environment(tmp_path))
    out, err = await asked.communicate()
    assert (asked.returncode, out) == (2, b"")
    assert err.count(b"\n") == 1
    assert b"unrecognized arguments: --nonsense" in err or b" required: " in err


def test_where_it_is_installed_soak_and_bench_are_no_commands(monkeypatch):
    """What only a checkout has is left out of a wheel."""
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    assert not {"soak", "bench"} & commands.commands().keys()


@pytest.mark.parametrize("words", ["openapi", "help"])
def test_who_reads_no_further_is_told_nothing(words):
    typed = f"{sys.executable} -m scripts.casebook {words} | true"
    ran = subprocess.run(["/bin/sh", "-c", typed], cwd=ROOT, capture_output=True, check=True)
    assert ran.stderr == b""


# --- what is wrong is one line --------------------------------------------------------------------


async def fails(tmp_path, *words, **settings):
    """Run a command that cannot do what it is asked for; return the line that it says."""
    ran = await script(*words, env={**environment(tmp_path), **settings})
    out, err = await ran.communicate()
    assert ran.returncode == 1, out
    said = err.decode()
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert "Errno" not in said
    return said.removeprefix("error: ").rstrip()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"CASEBOOK_RATE_LIMIT": "much"}, "CASEBOOK_RATE_LIMIT='much': a rate limit reads like"),
        ({"CASEBOOK_RATE_LIMT": "5/second"}, "did you mean CASEBOOK_RATE_LIMIT?"),
        ({"CASEBOOK_MONGODB_URL": "127.0.0.1:27017"}, "it must begin with mongodb://"),
        ({"CASEBOOK_MONGODB_URL": "mongo://127.0.0.1/"}, "it must begin with mongodb://"),
        (
            {"CASEBOOK_MONGODB_URL": "mongodb://127.0.0.1:9/"},
            "Connection refused; does it run, and",
        ),
        (
            {"CASEBOOK_MASTER_KEY_FILE": "nowhere"},
            "cannot read the master key nowhere: No such file",
        ),
        ({"CASEBOOK_JWT_KEY": "a", "CASEBOOK_JWKS": "b"}, "set CASEBOOK_JWT_KEY or CASEBOOK_JWKS"),
        (
            {"CASEBOOK_JWKS": "no.json", "CASEBOOK_JWT_ISSUER": "i", "CASEBOOK_JWT_AUDIENCE": "a"},
            "CASEBOOK_JWKS: there is no file no.json",
        ),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, dict) else "",
)
async def test_a_wrong_setting_is_told_before_anything_is_started(tmp_path, settings, said):
    assert said in await fails(tmp_path, "scripts.serve", **settings)


@pytest.mark.parametrize("name", ["soak", "bench"])
async def test_a_command_that_is_a_folder_runs_as_any_other(tmp_path, name):
    said = await fails(tmp_path, "scripts.casebook", name, "raec")
    assert re.match(f"there is no {name}(mark)? raec", said), said


async def test_a_port_in_use_is_told_with_what_to_set(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        said = await fails(tmp_path, "scripts.serve", CASEBOOK_PORT=port)
    assert said == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another with CASEBOOK_PORT"
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_fault_of_casebook_is_one_line_for_who_typed_a_command(tmp_path, is_terminal):
    """Its traceback is kept: in the log, or, at a terminal, in a file."""
    failing = (
        "from scripts.cli import run\n"
        "async def main(_):\n"
        "    return {}['nothing']\n"
        "run(main, None)\n"
    )
    ours, its = pty.openpty() if is_terminal else os.pipe()
    env = {**environment(tmp_path), "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", failing], cwd=ROOT, env=env, stderr=its, check=False
    )
    os.close(its) if not is_terminal else None
    said = os.read(ours, 65536).decode()
    assert ran.returncode == 1
    assert "KeyError: 'nothing' (a fault of Casebook: its traceback is in " in said
    kept = "".join(path.read_text() for path in tmp_path.glob("casebook-*.txt"))
    assert ("Traceback" in kept) == is_terminal
    assert ("Traceback" in said) is False
    assert ("unexpected error" in said) == (not is_terminal)
