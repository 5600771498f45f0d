"""What must get on and does not is named, and only for as long as it is so."""

from contextlib import suppress

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from eventstore.mongo.progress import Progresses


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("eventstore.mongo.progress.time.monotonic", lambda: now[0])
    return now


def ask(one, clock, error=None, seconds=0.0):
    def answer():
        clock[0] += seconds
        if error is not None:
            raise error

    with suppress(PyMongoError), one:
        answer()


def test_what_waits_for_too_long_is_held_up_until_it_is_answered(clock):
    progresses = Progresses()
    one, other = progresses.of("writing"), progresses.of("following")
    assert progresses.held_up() == []
    with one:
        clock[0] += 4.9
        assert progresses.held_up() == []
        ask(other, clock)
        clock[0] += 0.2
        assert progresses.held_up() == ["writing"]
    assert progresses.held_up() == []


def test_what_fails_again_and_again_is_held_up_since_the_first_failure(clock):
    progresses = Progresses()
    one = progresses.of("writing")
    for _ in range(4):
        ask(one, clock, AutoReconnect("gone"))
        clock[0] += 2
    assert progresses.held_up() == ["writing"]
    ask(one, clock)
    assert progresses.held_up() == []


def test_a_refusal_is_an_answer(clock):
    progresses = Progresses()
    one = progresses.of("writing")
    ask(one, clock, AutoReconnect("gone"))
    clock[0] += 4
    ask(one, clock, OperationFailure("no"))
    clock[0] += 4
    assert progresses.held_up() == []


def test_who_asks_no_more_after_a_failure_is_held_up_no_longer(clock):
    """Or a process that is sent nothing because it is not ready would never be it again."""
    progresses = Progresses()
    one = progresses.of("writing")
    ask(one, clock, AutoReconnect("gone"), seconds=5.1)
    assert progresses.held_up() == ["writing"]
    clock[0] += 5.1
    assert progresses.held_up() == []
    ask(one, clock, AutoReconnect("gone"))
    assert progresses.held_up() == []


def test_what_is_gone_is_not_held_up(clock):
    progresses = Progresses()
    with progresses.of("writing"):
        clock[0] += 6
    assert progresses.held_up() == []
