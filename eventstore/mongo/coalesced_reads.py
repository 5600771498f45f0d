"""Small questions that are asked again and again, and go to the database together.

A process at rest asks, every second or so, whether anything is new. Each such question costs a
command, however little it finds. So what is asked of one database at the same moment is one command
(`$unionWith`), and a question that can wait goes along with the next one that cannot. Who asks for
what waits to be asked shares the answer. Of large collections a command reads one.

Every question is put to the database after it was asked here. What cannot be answered together, for
whatever reason, is asked one by one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from math import inf
from typing import NamedTuple, cast

from domain.values import JsonObject
from eventstore.mongo.driver import Namespace, maybe_await

CAN_WAIT_SECONDS = 1.2
"""How long what is asked now and then waits for what is asked every second (`log_identity.py`)."""


class _Question(NamedTuple):
    collection: str
    condition: Mapping[str, object]
    order: Mapping[str, int]
    limit: int
    is_large: bool
    answers: list[asyncio.Future[list[JsonObject]]]

    def is_same(self, other: "_Question") -> bool:
        """Say whether both ask for the same."""
        orders = [[*each.order.items()] for each in (self, other)]
        return self[:-1] == other[:-1] and orders[0] == orders[1]

    @property
    def waiting(self) -> list[asyncio.Future[list[JsonObject]]]:
        """Those who still wait for the answer."""
        return [each for each in self.answers if not each.done()]

    def stages(self, number: int) -> list[JsonObject]:
        """Return it as stages of an aggregation, whose documents tell its number."""
        # Of one field each: a server may take an index only if it has all that a stage asks.
        stages: list[JsonObject] = [{"$match": {of: test}} for of, test in self.condition.items()]
        if self.order:
            stages.append({"$sort": self.order})
        if self.limit:
            stages.append({"$limit": self.limit})
        return [*stages, {"$replaceWith": {"number": {"$literal": number}, "found": "$$ROOT"}}]


class CoalescedReads:
    """Reads small collections of one database, and of large ones what an index has, by the first
    field of a condition. Bound to the event loop in which it is used.
    """

    def __init__(self, database: Namespace) -> None:
        self._database = database
        self._waiting: list[_Question] = []
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf  # when it rings
        self._asked: set[asyncio.Task[None]] = set()

    async def find(
        self,
        collection: str,
        condition: Mapping[str, object] | None = None,
        *,
        order: Mapping[str, int] | None = None,
        limit: int = 0,
        within_seconds: float = 0.0,
        is_large: bool = False,
    ) -> list[JsonObject]:
        """Return the documents that meet a condition, asked for within some seconds from now.
        `is_large`: of a collection that is not to be read whole, and so is asked first.

        Raises what the driver raises.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[JsonObject]] = loop.create_future()
        asked = _Question(collection, condition or {}, order or {}, limit, is_large, [answer])
        if (same := next(filter(asked.is_same, self._waiting), None)) is not None:
            same.answers.append(answer)
        else:
            self._waiting.append(asked)
        at = loop.time() + within_seconds
        if at < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = loop.call_at(at, self._ask_all, context=Context())
        return await answer

    def _ask_all(self) -> None:
        questions = [each for each in self._waiting if each.waiting]
        self._waiting.clear()
        self._timer, self._at = None, inf
        # The embedded server reads each collection whole but the first.
        large = [each for each in questions if each.is_large]
        for each in large[1:]:
            self._begin([each])
        if questions:
            self._begin([*large[:1], *(each for each in questions if not each.is_large)])

    def _begin(self, questions: Sequence[_Question]) -> None:
        asked = asyncio.create_task(self._answer(questions))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)

    async def _answer(self, questions: Sequence[_Question]) -> None:
        try:
            found = await (self._alone if len(questions) == 1 else self._together)(questions)
        except Exception as error:  # noqa: BLE001 it is raised where it was asked
            for each in questions:
                if len(questions) > 1:
                    self._begin([each])
                else:
                    for answer in each.waiting:
                        answer.set_exception(error)
            return
        for number, each in enumerate(questions):
            for answer in each.waiting:
                answer.set_result(found[number])

    async def _alone(self, questions: Sequence[_Question]) -> list[list[JsonObject]]:
        [asked] = questions
        order = [*asked.order.items()] or None
        found = self._database[asked.collection].find(
            asked.condition, sort=order, limit=asked.limit
        )
        return [await found.to_list()]

    async def _together(self, questions: Sequence[_Question]) -> list[list[JsonObject]]:
        first, *others = questions
        stages = first.stages(0)
        for number, each in enumerate(others, start=1):
            union = {"coll": each.collection, "pipeline": each.stages(number)}
            stages.append({"$unionWith": union})
        answer: list[list[JsonObject]] = [[] for _ in questions]
        cursor = await maybe_await(self._database[first.collection].aggregate(stages))
        for found in await cursor.to_list():
            answer[cast("int", found["number"])].append(cast("JsonObject", found["found"]))
        return answer
