"""How a replay tells of itself: a bar on a terminal, plain lines elsewhere, JSON for machines."""

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from types import TracebackType
from typing import Self

import orjson
from pymongo.errors import PyMongoError
from rich.progress import TaskID

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.mongo.errors import describe
from projections.replay.audit import Auditor
from projections.replay.comparing import Difference
from projections.replay.rebuild import Progress, Summary
from scripts.console import progress, screen

_LINE_SECONDS = 2.0
_JSON_SECONDS = 1.0


class Report(AbstractContextManager["Report"]):
    """What is printed. On standard output, all of it; errors are the command's to tell."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._bar = progress() if screen.is_terminal and not json else None
        self._task: TaskID | None = None
        self._phase: str | None = None
        self._began = self._told = 0.0
        self._first = 0

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._json and isinstance(error, CasebookError | PyMongoError):
            self._line({"error": describe(error)})

    def progress(self, at: Progress) -> None:
        """Tell how far it is: not more often than anyone would read it."""
        now = time.monotonic()
        if at.phase != self._phase:
            self._phase, self._began, self._told, self._first = at.phase, now, 0.0, at.done
            if self._bar is not None:
                if self._task is not None:
                    self._bar.update(self._task, rate="done")
                self._task = self._bar.add_task(at.phase, total=None, rate="")
        rate = (at.done - self._first) / (now - self._began) if now > self._began else 0.0
        left = (at.total - at.done) / rate if rate and at.total else None
        if self._bar is not None and self._task is not None:
            told = ", ".join(filter(None, (f"{rate:,.0f} events/s" if at.total else "", _lag(at))))
            self._bar.update(self._task, completed=at.done, total=at.total or None, rate=told)
            return
        due = now - self._told >= (_JSON_SECONDS if self._json else _LINE_SECONDS)
        if not due and not (at.total and at.done == at.total):
            return
        self._told = now
        if self._json:
            told_: JsonObject = {**asdict(at), "events_per_second": round(rate)}
            self._line({**told_, "seconds_left": None if left is None else round(left)})
        elif at.phase == "wait":
            self.say("waiting: another replay is at work, or was killed a moment ago")
        elif at.total:
            percent = 100 * at.done // at.total
            rest = "" if left is None else f", {left:.0f} s left"
            lag = f", {_lag(at)}" if at.lag_seconds is not None else ""
            done = f"{at.done} of {at.total} events ({percent} %)"
            self.say(f"{at.phase}: {done}, {rate:.0f}/s{rest}{lag}")
        else:
            self.say(" ".join((f"{at.phase}", _lag(at))).strip())

    def say(self, text: str) -> None:
        """Say something in words."""
        if self._json:
            self._line({"message": text})
        else:
            screen.print(text, highlight=False, markup=False, soft_wrap=True)

    def difference(self, difference: Difference) -> None:
        """Tell of one thing that differs."""
        if self._json:
            self._line({"difference": difference._asdict()})
        else:
            self.say(str(difference))

    def verified(self, auditor: Auditor, differences: int, most: int) -> None:
        """Tell what was compared, and what came of it."""
        if self._json:
            self._line(
                {
                    "checked_documents": auditor.tickets,
                    "checked_numbers": auditor.numbers,
                    "parked": len(auditor.waiting),
                    "differences": differences,
                }
            )
            return
        if differences > most:
            self.say(f"and {differences - most} more")
        if auditor.waiting:
            events = sum(auditor.waiting.values())
            self.say(f"{len(auditor.waiting)} parked, with {events} events that are not shown")
        found = "all equal" if not differences else f"what differs: {differences}"
        self.say(f"{auditor.tickets} tickets and {auditor.numbers} numbers compared; {found}")

    def summary(self, summary: Summary, what: str) -> None:
        """Tell what was done."""
        if self._json:
            self._line({"summary": asdict(summary)})
            return
        seconds = {phase: s for phase, s in summary.seconds.items() if phase != "wait"}
        if summary.events:
            rate = summary.events / max(seconds.get("scan", 0.0), 0.001)
            told = f"{summary.events} events of {summary.tickets} tickets folded, {rate:,.0f}/s"
            self.say(told + (f"; {summary.parked} tickets parked" if summary.parked else ""))
        if summary.checked_documents:
            numbers = f" and {summary.checked_numbers} numbers" if summary.checked_numbers else ""
            self.say(f"{summary.checked_documents} read documents{numbers} proved equal to the log")
        spent = ", ".join(f"{phase} {s:.1f} s" for phase, s in seconds.items())
        if summary.fenced_seconds:
            spent += f"; projectors waited for {1000 * summary.fenced_seconds:.0f} ms"
        self.say(spent)
        self.say(what)

    def _line(self, content: JsonObject) -> None:
        sys.stdout.buffer.write(
            orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE)
        )
        sys.stdout.buffer.flush()


def _lag(at: Progress) -> str:
    return "" if at.lag_seconds is None else f"{at.lag_seconds:.1f} s behind"
