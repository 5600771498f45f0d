"""What must get on and does not is named, and only for as long as it is so."""

from contextlib import suppress

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from eventstore.mongo.watchdog import Watchdog


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("eventstore.mongo.watchdog.time.monotonic", lambda: now[0])
    return now


def ask(one, clock, error=None, seconds=0.0):
    def answer():
        clock[0] += seconds
        if error is not None:
            raise error

    with suppress(PyMongoError), one:
        answer()


def test_what_waits_for_too_long_is_held_up_until_it_is_answered(clock):
    watchdog = Watchdog()
    one, other = watchdog.watch("writing"), watchdog.watch("following")
    assert watchdog.held_up() == []
    with one:
        clock[0] += 4.9
        assert watchdog.held_up() == []
        ask(other, clock)
        clock[0] += 0.2
        assert watchdog.held_up() == ["writing"]
    assert watchdog.held_up() == []


def test_what_fails_again_and_again_is_held_up_since_the_first_failure(clock):
    watchdog = Watchdog()
    one = watchdog.watch("writing")
    for _ in range(4):
        ask(one, clock, AutoReconnect("gone"))
        clock[0] += 2
    assert watchdog.held_up() == ["writing"]
    ask(one, clock)
    assert watchdog.held_up() == []


def test_a_refusal_is_an_answer(clock):
    watchdog = Watchdog()
    one = watchdog.watch("writing")
    ask(one, clock, AutoReconnect("gone"))
    clock[0] += 4
    ask(one, clock, OperationFailure("no"))
    clock[0] += 4
    assert watchdog.held_up() == []


def test_who_asks_no_more_after_a_failure_is_held_up_no_longer(clock):
    """Or a process that is sent nothing because it is not ready would never be it again."""
    watchdog = Watchdog()
    one = watchdog.watch("writing")
    ask(one, clock, AutoReconnect("gone"), seconds=5.1)
    assert watchdog.held_up() == ["writing"]
    clock[0] += 5.1
    assert watchdog.held_up() == []
    ask(one, clock, AutoReconnect("gone"))
    assert watchdog.held_up() == []


def test_what_is_gone_is_not_held_up(clock):
    watchdog = Watchdog()
    with watchdog.watch("writing"):
        clock[0] += 6
    assert watchdog.held_up() == []
