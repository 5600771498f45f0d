"""Small questions that are asked again and again, and go to the database together.

A process at rest asks, every second or so, whether anything is new. Each such question costs a
command, however little it finds. So what is asked of one database at the same moment is one command
(`$unionWith`), and a question that can wait goes along with the next one that cannot. Who asks for
what waits to be asked shares the answer. Of large collections a command reads one.

Every question is put to the database after it was asked here. What cannot be answered together, for
whatever reason, is asked one by one.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextvars import Context
from math import inf
from typing import NamedTuple, cast

from domain.values import JsonObject
from eventstore.mongo.driver import Namespace, maybe_await
from eventstore.mongo.limits import OPERATION_SECONDS
from eventstore.mongo.request_batcher import BatchedLookup

CAN_WAIT_SECONDS = 1.2
"""How long what is asked now and then waits for what is asked every second (`log_identity.py`)."""


class _Question(NamedTuple):
    collection: str
    condition: Mapping[str, object]
    order: tuple[tuple[str, int], ...]
    limit: int
    is_large: bool

    def __hash__(self) -> int:
        return hash(self.collection)

    def stages(self, number: int) -> list[JsonObject]:
        """Return it as stages of an aggregation, whose documents tell its number."""
        # Of one field each: a server may take an index only if it has all that a stage asks.
        stages: list[JsonObject] = [{"$match": {of: test}} for of, test in self.condition.items()]
        if self.order:
            stages.append({"$sort": dict(self.order)})
        if self.limit:
            stages.append({"$limit": self.limit})
        return [*stages, {"$replaceWith": {"number": {"$literal": number}, "found": "$$ROOT"}}]


class CoalescedReads(BatchedLookup[_Question, list[JsonObject]]):
    """Reads small collections of one database, and of large ones what an index has, by the first
    field of a condition. Bound to the event loop in which it is used.
    """

    def __init__(self, database: Namespace) -> None:
        super().__init__(self._find_all, OPERATION_SECONDS)
        self._database = database
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf  # when it rings

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

        Raises what the driver raises, and StoreUnavailable if it takes too long.
        """
        by = tuple((order or {}).items())
        answer = self._add(_Question(collection, condition or {}, by, limit, is_large))
        loop = asyncio.get_running_loop()
        at = loop.time() + within_seconds
        if at < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = loop.call_at(at, self._ask_all, context=Context())
        return await answer or []

    def _ask_all(self) -> None:
        asked = {
            question: answers
            for question, answers in self._waiting.items()
            if not all(answer.done() for answer in answers)
        }
        self._waiting.clear()
        self._timer, self._at = None, inf
        # The embedded server reads each collection whole but the first.
        for large in [each for each in asked if each.is_large][1:]:
            self._begin({large: asked.pop(large)})
        if asked:
            self._begin(asked)

    async def _find_all(
        self, questions: Collection[_Question]
    ) -> Mapping[_Question, list[JsonObject]]:
        first, *others = ordered = sorted(questions, key=lambda each: not each.is_large)
        collection = self._database[first.collection]
        if not others:
            found = collection.find(first.condition, sort=[*first.order] or None, limit=first.limit)
            return {first: await found.to_list()}
        stages = first.stages(0)
        for number, each in enumerate(others, start=1):
            union = {"coll": each.collection, "pipeline": each.stages(number)}
            stages.append({"$unionWith": union})
        answer: dict[_Question, list[JsonObject]] = {each: [] for each in ordered}
        cursor = await maybe_await(collection.aggregate(stages))
        for one in await cursor.to_list():
            answer[ordered[cast("int", one["number"])]].append(cast("JsonObject", one["found"]))
        return answer
