"""The keys of persons: one each, made when they are first named, and gone when they are erased.

They are in a database of their own, so that they have backups of their own: a backup of the log
holds nobody's words once their key is gone from the backups of the keys.

    persons   {_id, known_by, name, key, master, made_at, tree}    one person; once erased only
              {_id, known_by, erased_at}
    keyring   {_id: "lookup", key, master}

`_id` is random, and what the log knows a person by. `known_by` finds it by the name: an HMAC of it
under a secret of this database, so a person who is gone cannot be told from it without. `key` is
wrapped by a master key that is in no database; `name` is the name, under the person's own key, and
`tree` what is left of the tree of keys of their single messages (`key_tree.py`), under it too.

A person is who has one spelling of a name (`domain.values.one_spelling`): all spellings of it have
the key of that one, and nobody has a key of whom one was erased. What was sealed before that held
has a key by the spelling that was given then; `spellings` finds those.

A person has been erased from when the log's database says so, in `person_events`
(`domain/people.py`): from then on no key of theirs is used, and none is made for that name. That
goes by what the name is known by, so it holds whatever comes back with an old backup, under
whatever id. What the keys remember of an erased person holds as well by itself, should that
collection be restored to before.
A key that is missing otherwise is an error, and never taken for erased.

Keys are kept in memory: some thousands, for some minutes, and until there is news of an erasure
(`erasure_news.py`).
"""

import asyncio
import hashlib
import hmac
import logging
import os
import unicodedata
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar, cast
from uuid import UUID, uuid4

from cachetools import LRUCache

from domain.errors import CasebookError, NotFound, PersonGone
from domain.values import ERASED, JsonObject, one_spelling
from eventstore.documents import CRITICAL, Unreadable, UnreadableDocument, uuid_of
from eventstore.event_document import TICKET_EVENTS, EventDocument, utc_now
from eventstore.key_files import KeyUnusable
from eventstore.mongo.coalesced_reads import CoalescedReads
from eventstore.mongo.driver import AsyncCollection, Namespace
from eventstore.mongo.driver import Collection as StoredKeys
from eventstore.mongo.errors import time_limit, translate_driver_errors
from eventstore.mongo.limits import Index, make_indexes
from eventstore.mongo.resend import insert_new
from eventstore.personal.erasure_news import PERSON_EVENTS, ErasureNews
from eventstore.personal.key_tree import KeyTree
from eventstore.personal.master_keys import MasterKeys, Wrapped
from eventstore.personal.sealing import FINGERPRINT, ErasedKey, Key, PersonKey, leaves, persons

PERSONS, KEYRING = "persons", "keyring"
_MOST_KEPT = 20_000
_SECRET_BYTES = 32
_MOST_SECRETS = 16_000  # of a tree: some 65 redactions on other tickets, and 5 ms to open it
_LOOKUP = "lookup"
_ERASED = ErasedKey()

_log = logging.getLogger(__name__)
Scan = Callable[[str, JsonObject], AsyncIterable[JsonObject]]
T = TypeVar("T")
K = TypeVar("K")


class NoMasterKey(CasebookError):
    """Nothing personal can be written or read: for example by a process without its settings."""

    def __init__(self) -> None:
        super().__init__(
            "no_master_key",
            "no master key is at hand: name it in CASEBOOK_MASTER_KEY_FILE or CASEBOOK_MASTER_KEY",
        )


class UnknownPerson(NotFound):
    """Nothing is held on a person of that name or id."""

    def __init__(self) -> None:
        super().__init__("person_not_found", "nothing is held on such a person")


def keys_database(database: str) -> str:
    """Name the database of the keys of those whose words are in another."""
    return f"{database}_keys"


class Person(NamedTuple):
    """What the keys know of a person; no name once erased."""

    id: UUID
    name: str | None
    made_at: datetime | None
    erased_at: datetime | None


class Vault:
    """The keys of one database's persons. Bound to the event loop in which it is first used."""

    def __init__(
        self,
        keys: Namespace,
        database: Namespace,
        masters: MasterKeys | None,
        now: Callable[[], datetime] = utc_now,
        unreadable: Unreadable | None = None,
        scan: Scan | None = None,
        reads: CoalescedReads | None = None,
    ) -> None:
        """`database`: the log's, which has the events of persons too. `scan`: finds what may be
        many documents of a collection of `keys`; by its `find` unless given, which has no more time
        than any other operation.
        """
        self._now = now
        self._persons = keys[PERSONS]
        self._keyring = keys[KEYRING]
        self._log = database[TICKET_EVENTS]
        self._erasures = cast("AsyncCollection[EventDocument]", database[PERSON_EVENTS])
        self.news = ErasureNews(self._erasures, reads or CoalescedReads(database), self)
        """Whether anyone was erased, or anything redacted."""
        self._masters = masters
        self._scan: Scan = scan or (lambda name, condition: keys[name].find(condition))
        self._unreadable = unreadable or Unreadable()
        self._lookup: bytes | None = None
        self._by_name: LRUCache[str, PersonKey] = LRUCache(_MOST_KEPT)
        self._by_id: LRUCache[UUID, Key] = LRUCache(_MOST_KEPT)
        self._not_erased: LRUCache[str, None] = LRUCache(_MOST_KEPT)
        self._forgotten = 0

    async def prepare(self) -> None:
        """Make, at first, the secret by which names are known, and its index. Safe to repeat.

        Raises KeyUnusable if it was made under a master key that is not at hand; NoMasterKey.
        """
        await self._lookup_secret()
        with translate_driver_errors():
            await make_indexes(self._persons, Index([("erased_at", 1)], sparse=True))

    async def check(self) -> None:
        """Check it in a process that may not make it. Raises KeyUnusable, NoMasterKey."""
        if await self.is_new():
            _ = self._master
        else:
            await self._lookup_secret()

    async def is_new(self) -> bool:
        """Say whether no master key has wrapped anything here yet.

        Raises KeyUnusable if one must have, and what it has wrapped is gone.
        """
        with translate_driver_errors():
            if await self._lookup_document() is not None:
                return False
            is_used = (
                await self._persons.find_one({}, {"_id": 1})
                or await self._erasures.find_one({}, {"_id": 1})
                or await self._log.find_one({"sealed.person": {"$gte": UUID(int=0)}}, {"_id": 1})
            )
            if not is_used:
                return True
            if await self._lookup_document() is None:  # or another process was quicker
                raise KeyUnusable(
                    "the keys of the persons in this log are gone: restore the database of keys, "
                    "its keyring first"
                )
            return False

    # --- keys -----------------------------------------------------------------------------------

    async def of_names(self, names: Collection[str]) -> dict[str, PersonKey]:
        """Return the keys of some persons, made where they are new, by their names as given.

        Raises PersonGone, KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        if ERASED in names:
            raise PersonGone
        return await self._known_or(self._by_name, set(names), self._find_or_make)

    async def of_ids(self, ids: Iterable[UUID]) -> dict[UUID, Key]:
        """Return the keys of some persons by their ids; those that are missing are left out.

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        return await self._known_or(self._by_id, set(ids), self._fetch)

    async def of_documents(self, documents: Iterable[EventDocument]) -> dict[UUID, Key]:
        """Return the keys of all who have something sealed in some stored documents.

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        documents = list(documents)
        whose = {person for document in documents for person in persons(document)}
        keys = await self.of_ids(whose)
        bare = {id_ for id_, key in keys.items() if isinstance(key, PersonKey) and key.tree is None}
        if bare and any(person in bare for each in documents for person, _ in leaves(each)):
            for person in bare:  # another process has given them a tree since
                self._by_id.pop(person, None)
            keys = await self.of_ids(whose)
        return keys

    async def _known_or(
        self,
        known: LRUCache[T, K],
        wanted: Collection[T],
        fetch: Callable[[Collection[T]], Awaitable[dict[T, K]]],
    ) -> dict[T, K]:
        """Return what is in memory, and the rest by `fetch`; all of it as of one moment."""
        while wanted:
            await self.news.look_if_stale()
            times = self._forgotten
            found = {each: known[each] for each in wanted if each in known}
            missing = [each for each in wanted if each not in found]
            if not missing:
                return found
            async with time_limit():
                new = await fetch(missing)
            if times == self._forgotten:  # or any of these persons may be erased by now
                known.update(new)
                return found | new
        return {}

    async def check_name(self, name: str) -> None:
        """Raise PersonGone if the person of a name was erased; StoreUnavailable, NoMasterKey."""

        async def fetch(names: Collection[str]) -> dict[str, None]:
            digests = {await self.known_by(each): each for each in names}
            gone = await self._gone(digests)
            return {each: None for digest, each in digests.items() if digest not in gone}

        spellings = {name, one_spelling(name)}
        known = await self._known_or(self._not_erased, spellings, fetch)
        if name == ERASED or spellings - known.keys():
            raise PersonGone

    async def _gone(self, digests: Iterable[bytes]) -> set[bytes]:
        """Return by what of some names those are known who have been erased, says the log or say
        the keys.
        """
        wanted = list(digests)
        tombstones: JsonObject = {"data.known_by": {"$in": [digest.hex() for digest in wanted]}}
        erased: JsonObject = {"known_by": {"$in": wanted}, "erased_at": {"$ne": None}}
        with translate_driver_errors():
            in_log, in_keys = await asyncio.gather(
                self._erasures.find(tombstones, {"data.known_by": 1}).to_list(),
                self._persons.find(erased, {"known_by": 1}).to_list(),
            )
        gone = {bytes.fromhex(str(event["data"]["known_by"])) for event in in_log}
        return gone | {_known_by(document) for document in in_keys}

    async def _find_or_make(self, names: Collection[str]) -> dict[str, PersonKey]:
        given = {name: one_spelling(name) for name in names}
        others = [await self.known_by(name) for name, spelled in given.items() if name != spelled]
        if others and await self._gone(others):
            raise PersonGone
        keys = await self._find_or_make_spelled({*given.values()})
        return {name: keys[spelled] for name, spelled in given.items()}

    async def _find_or_make_spelled(self, names: Collection[str]) -> dict[str, PersonKey]:
        digests = {await self.known_by(name): name for name in names}
        while True:
            with translate_driver_errors():
                documents = await self._persons.find({"known_by": {"$in": [*digests]}}).to_list()
                for document in documents:
                    await self._plant(document)
            ids = {digests[_known_by(d)]: uuid_of(d) for d in documents}
            keys = await self._fetch([*ids.values()])
            found: dict[str, PersonKey] = {}
            for name, person in ids.items():
                key = keys.get(person)
                if key is None:
                    raise KeyUnusable(f"the key of person {person} cannot be read")
                if not isinstance(key, PersonKey):
                    raise PersonGone
                found[name] = key
            new = [digest for digest, name in digests.items() if name not in found]
            if not new:
                return found
            if await self._gone(new):
                raise PersonGone
            made = {digests[digest]: self._new(digest, digests[digest]) for digest in new}
            with translate_driver_errors():
                # Another process may make one of them at the same time.
                if await insert_new(self._persons, [document for _, document in made.values()]):
                    return found | {name: key for name, (key, _) in made.items()}

    def _new(self, known_by: bytes, name: str) -> tuple[PersonKey, JsonObject]:
        """Make a key, and its document, for a name that neither keys nor erasures know."""
        person, secret = uuid4(), os.urandom(_SECRET_BYTES)
        tree = KeyTree.new()
        key = PersonKey(person, secret, tree)
        wrapped = self._master.wrap(secret, person.bytes)
        return key, {
            "_id": person,
            "known_by": known_by,
            "name": key.seal(name, person.bytes),
            "key": wrapped.secret,
            "master": wrapped.master,
            "made_at": self._now(),
            "tree": key.sealed_tree(tree),
        }

    async def _plant(self, document: JsonObject) -> None:
        """Give a tree to a person whose key a former version has made."""
        if document.get("key") is not None and "tree" not in document:
            with suppress(KeyUnusable):  # it is missed, and told, where it is used
                tree = self._key(document).sealed_tree(KeyTree.new())
                bare = {"_id": document["_id"], "key": document["key"], "tree": None}
                await self._persons.update_one(bare, {"$set": {"tree": tree}})

    def _key(self, document: JsonObject) -> PersonKey:
        """Return the key of a person. Raises KeyUnusable."""
        person = uuid_of(document)
        key = PersonKey(person, self._master.unwrap(_wrapped(document), person.bytes))
        return key.with_tree(document["tree"]) if "tree" in document else key

    async def _fetch(self, wanted: Collection[UUID]) -> dict[UUID, Key]:
        """Read keys; an erased person's is none, whatever is there. One that cannot be read is left
        out, like one that is missing: it is no reason to keep all others waiting.
        """
        tombstones: JsonObject = {"ticket_id": {"$in": list(wanted)}}
        with translate_driver_errors():
            documents, in_log = await asyncio.gather(
                self._persons.find({"_id": {"$in": list(wanted)}}).to_list(),
                self._erasures.find(tombstones, {"ticket_id": 1}).to_list(),
            )
        gone = await self._gone(_known_by(document) for document in documents)
        found: dict[UUID, Key] = {tombstone["ticket_id"]: _ERASED for tombstone in in_log}
        for document in documents:
            person = uuid_of(document)
            if person not in found:
                try:
                    is_gone = _known_by(document) in gone
                    found[person] = _ERASED if is_gone else self._key(document)
                except KeyUnusable as error:
                    self._unreadable.note(PERSONS, person, error.detail)
        return found

    @property
    def _master(self) -> MasterKeys:
        if self._masters is None:
            raise NoMasterKey
        return self._masters

    # --- persons --------------------------------------------------------------------------------

    async def known_by(self, name: str) -> bytes:
        """Return what a name is known by. Raises KeyUnusable, NoMasterKey, StoreUnavailable."""
        return hmac.digest(await self._lookup_secret(), name.encode(), hashlib.sha256)

    async def _lookup_secret(self) -> bytes:
        if self._lookup is None:
            with translate_driver_errors():
                found = await self._lookup_document() or await self._make_lookup_secret()
            self._lookup = self._master.unwrap(_wrapped(found), _LOOKUP.encode())
        return self._lookup

    async def _lookup_document(self) -> JsonObject | None:
        return await self._keyring.find_one({"_id": _LOOKUP})

    async def _make_lookup_secret(self) -> JsonObject:
        if not await self.is_new() and (found := await self._lookup_document()) is not None:
            return found
        await make_indexes(self._persons, Index([("known_by", 1)], unique=True))
        wrapped = self._master.wrap(os.urandom(_SECRET_BYTES), _LOOKUP.encode())
        made: JsonObject = {"_id": _LOOKUP, "key": wrapped.secret, "master": wrapped.master}
        is_ours = await insert_new(self._keyring, [made])
        return made if is_ours else await self._lookup_document() or made

    async def find(self, name: str) -> Person:
        """Return the person of a name, erased or not. Raises UnknownPerson, UnreadableDocument."""
        return self._person(await self._named(name))

    async def person(self, id_: UUID) -> Person:
        """Return a person by id. Raises UnknownPerson, UnreadableDocument."""
        return self._person(await self._one({"_id": id_}))

    async def persons_of(self, name: str) -> tuple[list[Person], list[Person]]:
        """Return the persons who are not erased and have a name, in whichever spelling, and those
        whose names are alike: they differ by case, width or normalisation. Names are sealed, so all
        there are are looked through (20 us each).

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        same: list[Person] = []
        alike: list[Person] = []
        with translate_driver_errors():
            async for document in self._scan(PERSONS, {}):
                with suppress(UnreadableDocument, KeyUnusable):
                    person = self._person(document)
                    if person.name is not None and _folded(person.name) == _folded(name):
                        is_same = one_spelling(person.name) == one_spelling(name)
                        (same if is_same else alike).append(person)
        return same, alike

    async def _named(self, name: str) -> JsonObject:
        """Return who has the one spelling of a name, or had it as it is given before that held."""
        with suppress(UnknownPerson):
            return await self._one({"known_by": await self.known_by(one_spelling(name))})
        return await self._one({"known_by": await self.known_by(name)})

    async def _one(self, condition: JsonObject) -> JsonObject:
        with translate_driver_errors():
            found = await self._persons.find_one(condition)
        if found is None:
            raise UnknownPerson
        return found

    def _person(self, document: Mapping[str, object]) -> Person:
        """Read a person; the name for as long as its key is there, erased or not.

        Raises UnreadableDocument for a key that is none.
        """
        name: str | None = None
        person = uuid_of(document)
        if document.get("key") is not None:
            try:
                wrapped = _wrapped(document)
            except KeyUnusable as error:
                self._unreadable.note(PERSONS, person, error.detail)
                raise UnreadableDocument(PERSONS, person) from error
            key = PersonKey(person, self._master.unwrap(wrapped, person.bytes))
            name = str(key.open(str(document.get("name")), person.bytes))
        return Person(
            person,
            name,
            cast("datetime | None", document.get("made_at")),
            cast("datetime | None", document.get("erased_at")),
        )

    async def id_of(self, name: str) -> UUID | None:
        """Return the id of the person of a name, erased or not; None for an unknown name."""
        with suppress(UnknownPerson):
            return uuid_of(await self._named(name))
        return None

    async def names(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """Return the names of some persons, `ERASED` for erased ones; those whose keys are
        missing are left out. Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        keys = await self.of_ids(ids)
        with translate_driver_errors():
            found = await self._persons.find({"_id": {"$in": [*keys]}}, {"name": 1}).to_list()
        sealed = {uuid_of(document): str(document.get("name")) for document in found}
        return {id_: str(key.open(sealed.get(id_, ""), id_.bytes)) for id_, key in keys.items()}

    async def destroy(self, id_: UUID, known_by: bytes) -> None:
        """Destroy a person's key, for good; remember that there was one. Safe to repeat.

        By what the name is known by: it may have come back under another id. Only of who has been
        erased in the log: there it can be told from a key that was lost.
        """
        change: JsonObject = {
            "$unset": {"key": "", "master": "", "name": "", "made_at": "", "tree": ""},
            "$min": {"erased_at": self._now()},
        }
        with translate_driver_errors():
            found = await self._persons.update_one({"known_by": known_by}, change)
            if not found.matched_count:
                change["$set"] = {"known_by": known_by}
                await self._persons.update_one({"_id": id_}, change, upsert=True)
        self.news.invalidate()

    async def destroy_redacted(self, document: EventDocument) -> bool:
        """Destroy the keys of what was redacted of a stored event; return whether all of that has
        had keys of its own, which are gone. Safe to repeat.

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        fields = self.news.redactions.fields.get((document["ticket_id"], document["version"]))
        if fields is None:
            return False

        def is_redacted(path: str) -> bool:
            _, part, name, *_ = path.split("/")
            return path == FINGERPRINT or (part == "data" and name in fields)

        own: dict[UUID, set[str]] = {}
        for person, leaf in leaves(document):
            own.setdefault(person, set()).add(leaf.path)
        gone = {each["path"] for each in document.get("sealed", ()) if is_redacted(each["path"])}
        done = FINGERPRINT in gone and gone <= {path for paths in own.values() for path in paths}
        for person, paths in own.items():
            if paths & gone:
                done &= await self._cut(person, document, paths & gone, paths - gone)
        return done

    async def _cut(
        self, person: UUID, event: EventDocument, gone: Collection[str], left: Collection[str]
    ) -> bool:
        """Destroy the keys of some fields; return whether they are gone."""
        match (await self.of_ids([person])).get(person):
            case PersonKey(tree=KeyTree() as tree):
                place = event["ticket_id"], event["version"]
                if not any(tree.key(*place, path) for path in gone):
                    return True
        while True:
            with translate_driver_errors():
                document = await self._persons.find_one({"_id": person})
            if document is None:
                raise KeyUnusable(f"the key of person {person} is missing")
            if document.get("key") is None:
                return True  # with all of theirs
            key = self._key(document)
            if key.tree is None:
                raise KeyUnusable(f"the tree of keys of person {person} is missing")
            tree = key.tree.without(event["ticket_id"], event["version"], gone, left)
            if tree.secrets == key.tree.secrets:
                return True
            if len(tree.secrets) > _MOST_SECRETS:
                return False
            as_read = {"_id": person, "tree": document["tree"]}
            with translate_driver_errors():
                change = {"$set": {"tree": key.sealed_tree(tree)}}
                changed = await self._persons.update_one(as_read, change)
            if changed.matched_count:
                self.invalidate()
                return True

    async def erased(self) -> dict[bytes, UUID]:
        """Return those whom the keys remember as erased: by what their names were known by."""
        long_ago = datetime(1970, 1, 1, tzinfo=UTC)  # a range, that an index can answer
        with translate_driver_errors():
            found = self._scan(PERSONS, {"erased_at": {"$gte": long_ago}})
            return {_known_by(document): uuid_of(document) async for document in found}

    async def still_there(self, digests: Iterable[bytes]) -> list[bytes]:
        """Return those of some names, by what they are known by, whose key is there: as after an
        old backup was restored.
        """
        with translate_driver_errors():
            wanted: JsonObject = {"known_by": {"$in": list(digests)}, "key": {"$ne": None}}
            return [_known_by(d) async for d in self._persons.find(wanted, {"known_by": 1})]

    async def known_as(self, id_: UUID) -> bytes:
        """Return the lookup digest of a person's name. Raises UnknownPerson."""
        return _known_by(await self._one({"_id": id_}))

    # --- master keys ----------------------------------------------------------------------------

    async def to_rewrap(self) -> int:
        """Count what another master key than the first has wrapped."""
        count = 0
        with translate_driver_errors():
            async for _ in self._wrapped_by_others():
                count += 1
        return count

    async def rewrap(self, done: Callable[[], None]) -> None:
        """Wrap everything by the first master key.

        Raises KeyUnusable, once all others are wrapped, if one cannot be read: it stays as it is.
        """
        failed: KeyUnusable | None = None
        with translate_driver_errors():
            async for collection, document in self._wrapped_by_others():
                id_ = document["_id"]
                of = id_.bytes if isinstance(id_, UUID) else str(id_).encode()
                try:
                    new = self._master.wrap(self._master.unwrap(_wrapped(document), of), of)
                except KeyUnusable as error:
                    self._unreadable.note(collection.name, id_, error.detail)
                    failed = failed or error
                    continue
                # On condition that it is as it was read: one that was erased stays so.
                change = {"$set": {"key": new.secret, "master": new.master}}
                await collection.update_one({"_id": id_, "key": document["key"]}, change)
                done()
        if failed is not None:
            raise failed

    async def _wrapped_by_others(self) -> AsyncIterator[tuple[StoredKeys, JsonObject]]:
        """Yield what another master key than the first has wrapped."""
        condition: JsonObject = {"master": {"$nin": [None, self._master.first]}}
        for collection in (self._keyring, self._persons):
            async for document in self._scan(collection.name, condition):
                yield collection, document

    # --- what is kept in memory -----------------------------------------------------------------

    def invalidate(self) -> None:
        """Forget all keys."""
        self._forgotten += 1
        self._by_name.clear()
        self._by_id.clear()
        self._not_erased.clear()


def _wrapped(document: Mapping[str, object]) -> Wrapped:
    """Read a key as it is stored. Raises KeyUnusable for what is none."""
    master, key = document.get("master"), document.get("key")
    if document.get(CRITICAL) or not isinstance(master, str) or not isinstance(key, bytes):
        raise KeyUnusable(f"what is stored of {document.get('_id')} is no wrapped key")
    return Wrapped(master, key)


def _known_by(document: Mapping[str, object]) -> bytes:
    known_by = document.get("known_by")
    return known_by if isinstance(known_by, bytes) else b""


def _folded(name: str) -> str:
    """Return what is the same of names that look alike (Unicode's compatibility caseless match)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
