"""What a replay prints: a progress bar at a terminal, plain lines elsewhere, JSON for programs.

All of it goes to standard output.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import orjson
from pymongo.errors import PyMongoError
from rich import progress as rich_progress

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.mongo.errors import describe
from projections.replay.audit import Auditor
from projections.replay.rebuild import Progress, Summary
from scripts.cli import progress, screen

_LINE_SECONDS = 2.0


class Report:
    """Prints each thing as lines of text, or as one JSON document."""

    def __init__(self, bar: rich_progress.Progress | None, *, json: bool) -> None:
        self._json = json
        self._bar = bar
        self._task = rich_progress.TaskID(0)
        self._phase: str | None = None
        self._began = self._printed = 0.0
        self._first = 0

    def say(self, text: str) -> None:
        """Say something in words."""
        self.show({"message": text}, text)

    def show(self, content: JsonObject, *lines: str) -> None:
        """Print something, given as JSON and in words."""
        if self._json:
            line = orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE)
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        for line_ in lines:
            screen.print(line_, highlight=False, markup=False, soft_wrap=True)

    def progress(self, at: Progress) -> None:
        """Show how far it is; in lines, not more often than anyone would read them."""
        now = time.monotonic()
        if at.phase != self._phase:
            self._phase, self._began, self._printed, self._first = at.phase, now, 0.0, at.done
            if self._bar is not None:
                self._task = self._bar.add_task(at.phase, total=None, rate="")
        rate = (at.done - self._first) / (now - self._began) if now > self._began else 0.0
        lag = "" if at.lag_seconds is None else f"{at.lag_seconds:.1f} s behind"
        if self._bar is not None:
            parts = f"{rate:,.0f} events/s" if at.total else "", lag
            text = ", ".join(filter(None, parts))
            self._bar.update(self._task, completed=at.done, total=at.total or None, rate=text)
        elif now - self._printed >= _LINE_SECONDS or (at.total and at.done == at.total):
            self._printed = now
            left = round((at.total - at.done) / rate) if rate and at.total else None
            content = {**asdict(at), "events_per_second": round(rate), "seconds_left": left}
            self.show(content, _line(at, rate, left, lag))

    def verified(self, auditor: Auditor) -> None:
        """Show what was compared, how many differences there are, and the first of them."""
        count, first = auditor.differences, auditor.first
        for difference in first:
            self.show({"difference": difference._asdict()}, str(difference))
        lines = []
        if count > len(first):
            lines.append(f"and {count - len(first)} more")
        if auditor.waiting:
            events = sum(auditor.waiting.values())
            lines.append(f"{len(auditor.waiting)} parked, with {events} events that are not shown")
        found = f"what differs: {count}" if count else "all equal"
        compared = f"{auditor.tickets} tickets and {auditor.numbers} numbers compared; {found}"
        content: JsonObject = {
            "checked_documents": auditor.tickets,
            "checked_numbers": auditor.numbers,
            "parked": len(auditor.waiting),
            "differences": count,
        }
        self.show(content, *lines, compared)

    def summary(self, summary: Summary, outcome: str) -> None:
        """Show what was done, and what is so now."""
        lines = []
        seconds = {phase: s for phase, s in summary.seconds.items() if phase != "wait"}
        if summary.events:
            rate = summary.events / max(seconds.get("scan", 0.0), 0.001)
            parked = f"; {summary.parked} tickets parked" if summary.parked else ""
            folded = f"{summary.events} events of {summary.tickets} tickets folded"
            lines.append(f"{folded}, {rate:,.0f}/s{parked}")
        if summary.checked_documents:
            numbers = f" and {summary.checked_numbers} numbers" if summary.checked_numbers else ""
            lines.append(
                f"{summary.checked_documents} read documents{numbers} proved equal to the log"
            )
        spent = ", ".join(f"{phase} {s:.1f} s" for phase, s in seconds.items())
        if summary.fenced_seconds:
            spent += f"; projectors waited for {1000 * summary.fenced_seconds:.0f} ms"
        self.show({"summary": asdict(summary)}, *lines, spent, outcome)


@contextmanager
def reporting(*, json: bool) -> Iterator[Report]:
    """Report what the block does; in JSON, its error too."""
    bar = progress() if screen.is_terminal and not json else None
    with bar or nullcontext():
        report = Report(bar, json=json)
        try:
            yield report
        except (CasebookError, PyMongoError) as error:
            if json:
                report.show({"error": describe(error)})
            raise


def _line(at: Progress, rate: float, left: int | None, lag: str) -> str:
    if at.phase == "wait":
        return "waiting: another replay is at work, or was killed a moment ago"
    if not at.total:
        return f"{at.phase} {lag}".strip()
    done = f"{at.done} of {at.total} events ({100 * at.done // at.total} %)"
    rest = "" if left is None else f"{left} s left"
    return ", ".join(filter(None, (f"{at.phase}: {done}", f"{rate:.0f}/s", rest, lag)))
