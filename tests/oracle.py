"""What views and counters must be, folded from the raw documents of the log.

Written apart from the projection code, with plain dictionaries and no word of it, so that a mistake
there is not made here too (L7).
"""

import base64
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventstore.database import Database
from projections.views.tickets import SHAPE
from tests import business_hours

Document = dict[str, Any]


async def folded_reads(
    database: Database, waiting: Mapping[Any, int] | None = None, zones: Sequence[str] = ("UTC",)
) -> dict[Any, Document]:
    """Fold every event of the log into read documents, by ticket id.

    `waiting`: of these tickets only what comes before a version. `zones`: by whose days is counted.
    """
    events = await opened_events(database)
    reads = folded(events, zones, waiting)
    views = await _all(database, "saved_views")
    for read in reads.values():
        read["in_views"] = sorted(v["id"] for v in views if _matches(v["filter"], read))
    return {ticket_id: _as_stored(read) for ticket_id, read in reads.items()}


def folded(
    events: Iterable[Document], zones: Sequence[str], waiting: Mapping[Any, int] | None = None
) -> dict[Any, Document]:
    """The same, but for what is not of the log."""
    reads: dict[Any, Document] = {}
    counted: dict[Any, Counter[str]] = {}
    worked: dict[Any, Counter[str]] = {}
    for event in sorted(events, key=lambda e: (e["ticket_id"], e["version"])):
        ticket_id = event["ticket_id"]
        if waiting and event["version"] >= waiting.get(ticket_id, 10**9):
            continue
        previous = reads.get(ticket_id)
        assert event["version"] == (previous["version"] if previous else 0) + 1
        read = reads[ticket_id] = _after(previous, event)
        now = [shown_day(zone, read["updated_at"]) for zone in zones]
        born = _listed(shown_day(zone, read["opened_at"]) for zone in zones)
        _count(counted.setdefault(ticket_id, Counter()), previous, read, event, _listed(now), born)
        weeks = _listed(day - timedelta(days=day.weekday()) for day in now)
        _work(worked.setdefault(ticket_id, Counter()), previous, read, event, weeks)
    for ticket_id, read in reads.items():
        read["counted"] = {key: n for key, n in counted[ticket_id].items() if n}
        read["worked"] = {key: n for key, n in worked[ticket_id].items() if n}
    return reads


@lru_cache(maxsize=2**16)
def shown_day(zone: str, at: datetime) -> date:
    """The last date that the zone's clock has shown by then: no clock was ever set back further
    over midnight than four hours.
    """
    if zone == "UTC":
        return at.date()
    before = (at - timedelta(minutes=n) for n in range(241))
    return max(time.astimezone(business_hours.zone(zone)).date() for time in before)


def _listed(days: Iterable[date]) -> str:
    first, *others = days
    return ",".join([f"{first}", *("" if day == first else f"{day}" for day in others)])


def of_each_zone(days: str) -> list[str]:
    """Days as they are listed, in full."""
    first, *others = days.split(",")
    return [first, *(day or first for day in others)]


async def opened_events(database: Database) -> list[Document]:
    """Read the log, opening what is sealed by the page on personal data and no code of ours."""
    masters = database.masters
    assert masters is not None
    [master] = masters.secrets
    own = database.client[f"{database.name}_keys"]
    erased = {e["ticket_id"] for e in await _all(database, "person_events")}
    keys: dict[UUID, bytes | None] = dict.fromkeys(erased)
    trees: dict[UUID, dict[str, bytes]] = {}
    persons: Any = own["persons"]
    for person in await persons.find({"key": {"$ne": None}}).to_list():
        if (id_ := person["_id"]) not in erased:
            nonce, wrapped = person["key"][:12], person["key"][12:]
            keys[id_] = secret = AESGCM(master).decrypt(nonce, wrapped, id_.bytes)
            if "tree" in person:
                tree = _decrypt(secret, person["tree"], b"tree" + id_.bytes)
                secrets = base64.b64decode(tree["secrets"])
                trees[id_] = {step: secrets[32 * n :][:32] for n, step in enumerate(tree["steps"])}
    events = await _all(database, "ticket_events")
    for event in events:
        for field in event.pop("sealed", ()):
            path, person = field["path"], field["person"]
            *steps, last = path.removeprefix("/").split("/")
            place: Any = event
            for step in steps:
                place = place[int(step)] if isinstance(place, list) else place[step]
            said: object = "[erased]"
            if (key := keys[person]) is not None:
                about = f"{event['ticket_id']}\n{event['version']}\n{path}\n{person}".encode()
                _, is_alone, text = field["text"].rpartition("field:")
                key = _own_key(trees[person], event, path) if is_alone else key
                said = "[redacted]" if key is None else _decrypt(key, text, about)
            place[int(last) if isinstance(place, list) else last] = said
    for redaction in [event for event in events if event["type"] == "MessageRedacted"]:
        for event in events:
            data = redaction["data"]
            if [event[of] for of in _PLACE] == [redaction["ticket_id"], data["redacts"]]:
                event["data"] |= {name: _blank(event["data"][name]) for name in data["fields"]}
    return events


def _decrypt(key: bytes, text: str, about: bytes) -> Any:
    sealed = base64.b64decode(text)
    return json.loads(AESGCM(key).decrypt(sealed[:12], sealed[12:], about))


def _own_key(tree: dict[str, bytes], event: Document, path: str) -> bytes | None:
    """Make the key of a field: from the one secret of the tree that stands on the way to it."""
    above, below = divmod(event["version"], 2**16)
    of_ticket = _hashed(tree["ways"], f"{event['ticket_id']} {above}")
    steps = [*f"{of_ticket.hex()[:12]}{below:04x}", path]
    for at in range(len(steps) + 1):
        if (found := tree.get("".join(steps[:at]))) is not None:
            for step in steps[at:]:
                found = _hashed(found, step)
            return found
    return None


def _hashed(secret: bytes, step: str) -> bytes:
    return hashlib.blake2b(step.encode(), key=secret, digest_size=32).digest()


_PLACE = ("ticket_id", "version")


def _blank(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _blank(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_blank(inner) for inner in value]
    return value if value in (None, "") else "[redacted]"


async def _all(database: Database, name: str) -> list[Document]:
    return await database.collection(name).find().to_list()


async def _shown(database: Database, name: str) -> list[Document]:
    """Read a view where the pointer says that it is."""
    views: Any = database.client[f"{database.name}_views"]
    [pointer] = await views["generations"].find({"_id": "active"}).to_list()
    found: list[Document] = await views[f"{name}_{pointer['numbers'][name]}"].find().to_list()
    return found


async def counted_zones(database: Database) -> tuple[str, ...]:
    """By whose days what is shown says that it counts."""
    views: Any = database.client[f"{database.name}_views"]
    pointers = await views["generations"].find({"_id": "active"}).to_list()
    return tuple(pointers[0].get("zones", ("UTC",)))


def _matches(wanted: Document, read: Document) -> bool:
    rest = dict(wanted)
    tag, solved = rest.pop("tag", None), rest.pop("solved", None)
    if (read["close_reason"] == "spam") != rest.pop("spam", False):
        return False
    if tag is not None and tag not in read["tags"]:
        return False
    if solved is not None and solved != (read["status"] in ("resolved", "closed")):
        return False
    for name in ("requester", "assignee"):
        if rest.get(name):
            rest[name] = _person(rest[name])
    return all(read[name] == (value or None) for name, value in rest.items())


# What a ticket adds to the counters: states entered and left, and what happened, by day.


def _count(
    counted: Counter[str],
    before: Document | None,
    after: Document,
    event: Document,
    day: str,
    born: str,
) -> None:
    group = _quoted(after["group"])
    kind = event["type"]
    for read, n in ((before, -1), (after, 1)):
        if read is not None:
            own = _quoted(read["group"])
            for metric, label in _states(read, born).items():
                counted[f"{day}|{metric}|{own}|{label}"] += n
    happened = {
        "TicketOpened": "created",
        "TicketResolved": "resolved",
        "TicketReopened": "reopened",
        "TicketClosed": "closed",
        "TicketMergedInto": "closed",
        "SlaBreached": f"breached_{event['data'].get('target')}",
    }.get(kind)
    if happened:
        counted[f"{day}|happened|{group}|{happened}"] += 1
    times = {"TicketResolved": "resolution"}
    automatic = event["data"].get("automatic", False)
    if before is not None and before["first_response_at"] is None and not automatic:
        times["AgentReplied"] = "first_response"
    if kind in times:
        took = _elapsed(after) // timedelta(milliseconds=1)
        bucket = sum(bound < took for bound in _BOUNDS)
        counted[f"{day}|{times[kind]}|{group}|b{bucket}"] += 1
        counted[f"{day}|{times[kind]}|{group}|ms"] += took


# What agents do, by the Monday of its week.


def _work(
    worked: Counter[str], before: Document | None, after: Document, event: Document, week: str
) -> None:
    kind = event["type"]
    writer, owner = {**event["actor"]}, after["assignee"]
    writer["id"] = _person(writer["id"])
    took = _elapsed(after) // timedelta(milliseconds=1)
    done: list[tuple[str | None, str, int]] = []
    times: list[tuple[str | None, str]] = []
    if kind == "AgentReplied" and not event["data"].get("automatic"):
        done = [(writer["id"], "replies", 1)]
        if before is not None and before["first_response_at"] is None:
            times = [(writer["id"], "first_response")]
    elif kind == "NoteAdded" and writer["role"] == "agent":
        done = [(writer["id"], "notes", 1)]
    elif kind == "TicketAssigned":
        done = [(_person(event["data"]["assignee"]), "assigned", 1)]
    elif kind == "TicketResolved":
        done, times = [(owner, "resolved", 1)], [(owner, "resolution")]
    elif kind == "TicketReopened":
        done = [(owner, "reopened", 1)]
    for agent, time in times:
        done.append((agent, f"{time}_b{sum(bound < took for bound in _BOUNDS)}", 1))
        done.append((agent, f"{time}_ms", took))
    for agent, what, n in done:
        if agent is not None:
            worked[f"{week}|{_quoted(agent)}|{what}"] += n


_BOUNDS = [round(1000 * 2 ** (n / 4)) for n in range(109)]  # 2 ** 27 seconds are four years


def _states(read: Document, born: str) -> dict[str, str]:
    states = {"status": read["status"]}
    if read["rating"]:
        states["rating"] = str(read["rating"]["score"])
    if read["status"] not in ("resolved", "closed"):
        clock = read["sla"]
        state = "running" if clock["spans"][-1][1] is None else "paused"
        if clock["targets"] == NOTHING:
            state = "none"
        states |= {
            "priority": read["priority"],
            "group": _quoted(read["group"]),
            "assignee": _quoted(read["assignee"]),
            "opened_on": born,
            "sla": "breached" if clock["breached"] else state,
        }
    return states


def _quoted(name: str | None) -> str:
    if not name:
        return "%" if name is None else "%%"
    special = {"%": "%25", ".": "%2E", "$": "%24", "|": "%7C", "\0": "%00"}
    return "".join(special.get(character, character) for character in name)


def _elapsed(read: Document) -> timedelta:
    elapsed: timedelta = read["updated_at"] - read["opened_at"]
    return elapsed


INTERNAL = {"NoteAdded", "SlaBreached", "FollowerAdded", "FollowerRemoved"} | {
    *("TicketLinked", "TicketUnlinked", "TicketMergedFrom", "MergeUndone")
}


def _public_seconds(read: Document) -> int:
    elapsed: timedelta = read["public_updated_at"] - read["opened_at"]
    return elapsed // timedelta(seconds=1)


def _numbered(number: int | None) -> str | None:
    return f"C-{number}" if number else None


# What a ticket is found by: the words of all texts that stay, those of its subject, and fields.


def _found_by(read: Document, said: list[tuple[str, bool]]) -> Document:
    """Return the terms. `said`: texts, and whether each is for colleagues only."""

    def of_now(hidden: Iterable[str] = (), *, files: bool = True) -> list[str]:
        names = [each["name"] for each in read["attachments"] if files or not each["internal"]]
        said_now = [read["number"] or "", read["subject"], *names]
        return [word for text in said_now for word in _words(text)] + sorted(
            f"={key}={json.dumps(one) if isinstance(one, bool) else one}"[:64]
            for key, value in read["fields"].items()
            if key not in hidden
            for one in (value if isinstance(value, list) else [value])
        )

    all_ = _distinct(w for text, _ in said for w in _words(text))[:20_000]
    public = _distinct(w for text, hidden in said if not hidden for w in _words(text))[:20_000]
    terms = _distinct([*all_, *of_now()])
    public_terms = _distinct([*public, *of_now(read["internal_fields"], files=False)])
    return {
        "terms": terms,
        "said": len(all_),
        "public_terms": None if public_terms == terms else public_terms,
        "public_said": len(public),
    }


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _words(text: str) -> list[str]:
    """Character by character, by the names and categories that Unicode gives them."""
    found: list[str] = []
    for word in _split(_plain(text)):
        if _is_unspaced(word[0]):
            found += [word[n : n + 2] for n in range(len(word))]
            found += [word] if len(word) > 2 else []
            assert len(word) <= 128, "a longer run is cut into pieces, which no history here has"
        else:
            steps = re.findall("[^-'.,]+|[-'.,]", word)  # parts, and what joins them
            for first in range(0, len(steps), 2):
                rest = steps[first : first + 7]
                found += ["".join(rest[:n])[:64] for n in range(1, len(rest) + 1, 2)]
    return _distinct(found)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).casefold()
    kept = ""
    for c in unicodedata.normalize("NFKD", text):
        name = unicodedata.name(c, "")
        mark = unicodedata.category(c) == "Mn"
        if mark and name.startswith(("COMBINING", "HEBREW", "ARABIC")) and "KANA" not in name:
            continue
        kept += "" if c in "\u00ad\u200c\u200d\u200e\u200f\u2060\ufeff" else c
    return unicodedata.normalize("NFKC", kept)


def _split(text: str) -> list[str]:
    """Part a text into words, and into runs of characters that are written without spaces."""
    found, last = [""], ""
    for c, following in zip(text, text[1:] + " ", strict=False):
        kind = _kind(c)
        is_within = last == _kind(following) == "word" and (
            c in "'."
            or (c == "-" and following.isdecimal())
            or (c == "," and found[-1][-1].isdecimal() and following.isdecimal())
        )
        if is_within:
            found[-1] += c
        elif not kind:
            last = ""
        elif kind == last:
            found[-1] += c
        else:
            found.append(c)
            last = kind
    return [word for word in found if word]


def _kind(c: str) -> str:
    if unicodedata.category(c)[0] not in "LMN" and c != "_":
        return ""
    return "run" if _is_unspaced(c) else "word"


def _is_unspaced(c: str) -> bool:
    scripts = ("CJK UNIFIED", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO")
    more = ("THAI", "LAO", "KHMER", "MYANMAR", "COMBINING KATAKANA")
    return unicodedata.name(c, "").startswith((*scripts, *more))


def _person(name: str) -> str:
    """The one spelling of a person's name."""
    head, at, domain = unicodedata.normalize("NFC", name).rpartition("@")
    return head + at + unicodedata.normalize("NFC", domain.lower()) if at else domain


def _after(read: Document | None, event: Document) -> Document:
    at, data = event["occurred_at"], {**event["data"]}
    for name in ("requester", "assignee", "follower"):
        if name in data:
            data[name] = _person(data[name])
    if "followers" in data:
        data["followers"] = [_person(name) for name in data["followers"]]
    if read is None:
        assert event["type"] == "TicketOpened"
        return _with_times(
            {
                **data,
                "_id": event["ticket_id"],
                "number": _numbered(data.get("number")),
                "version": 1,
                "public_version": 1,
                "public_updated_at": at,
                "internal_fields": data.get("internal_fields", []),
                "sla": _clock(data.get("sla"), at),
                "status": "new",
                "assignee": None,
                "waiting_reason": None,
                "resume_at": None,
                "resolution": None,
                "close_reason": None,
                "followers": [],
                "attachments": [],
                "links": [],
                "rating": None,
                "before_merge": None,
                "last_merge": None,
                "opened_at": at,
                "updated_at": at,
                "first_response_at": None,
                "resolved_at": None,
                "closed_at": None,
                "preview": " ".join(data["body"].split())[:50],
                "has_note": False,
                "agent_replies": 0,
                "requester_replies": 0,
                "last_actor": event["actor"]["id"],
                "first_response_seconds": None,
                "resolution_seconds": None,
                "reopenings": 0,
                "texts": [(data["body"], False)],
                "in_views": [],
            }
        )
    new = {**read, "version": event["version"], "updated_at": max(at, read["updated_at"])}
    if event["type"] not in INTERNAL and not event["data"].get("is_internal", False):
        new["public_version"] += 1
        new["public_updated_at"] = max(at, read["public_updated_at"])
    clock = new["sla"] = dict(read["sla"])
    if read["resume_at"] is not None and read["resume_at"] <= at:
        _turn(clock, read["resume_at"], on=True)
    clock = new["sla"] = _passed(clock, at)
    new["last_actor"] = event["actor"]["id"]
    kind = event["type"]
    said = {"TicketResolved": "resolution"}
    if kind in ("AgentReplied", "RequesterReplied", "NoteAdded", *said):
        text = data[said.get(kind, "body")]
        new["texts"] = [*read["texts"], (text, kind in INTERNAL)]
    answers = kind == "AgentReplied" and not data.get("automatic")
    if (kind == "TicketAssigned" or answers) and new["status"] == "new":
        new["status"] = "open"
    if kind == "TicketAssigned":
        new["assignee"] = data["assignee"]
    elif kind == "TicketUnassigned":
        new["assignee"] = None
    elif kind == "TicketMovedToGroup":
        new["group"] = data["group"]
    elif kind == "PriorityChanged":
        new["priority"] = data["priority"]
        _promise(clock, data.get("sla"), at)
    elif kind == "SlaChanged":
        _promise(clock, data["sla"], at)
    elif kind == "TicketNumbered":
        new["number"] = _numbered(data["number"])
    elif kind == "RequesterChanged":
        new["requester"] = data["requester"]
    elif kind == "FollowerAdded":
        new["followers"] = sorted({*new["followers"], data["follower"]})
    elif kind == "FollowerRemoved":
        new["followers"] = [f for f in new["followers"] if f != data["follower"]]
        if merge := new["last_merge"]:
            brought = [f for f in merge["followers"] if f != data["follower"]]
            new["last_merge"] = {**merge, "followers": brought}
    elif kind == "FileAttached":
        file = {name: data[name] for name in ("name", "media_type", "size_bytes", "sha256")}
        file["internal"] = data.get("is_internal", False)
        new["attachments"] = [*new["attachments"], file]
    elif kind == "TicketLinked":
        new["links"] = [*new["links"], {**data, "ticket": UUID(data["ticket"])}]
    elif kind == "TicketUnlinked":
        gone = {**data, "ticket": UUID(data["ticket"])}
        new["links"] = [link for link in new["links"] if link != gone]
        if merge := new["last_merge"]:
            new["last_merge"] = {**merge, "unlinked": [*merge["unlinked"], gone]}
    elif kind == "FileDetached":
        new["attachments"] = [
            a
            for a in new["attachments"]
            if [a["sha256"], a["internal"]] != [data["sha256"], data["is_internal"]]
            or (a["name"] != data["name"] and "[redacted]" not in (a["name"], data["name"]))
        ]
    elif kind == "PromiseTakenOver":
        start, _, calendar = clock["spans"][-1]
        asked_ms = clock["asked_ms"] if data["target"] == "next_response" else 0
        counts = business_hours.counted(calendar, start, _time(data["due_at"]))
        limit = (counts + _used(clock, start)) // timedelta(milliseconds=1) - asked_ms
        taken_over = {"target": data["target"], "limit_ms": limit, "ticket": UUID(data["ticket"])}
        clock["taken_over"] = [*clock["taken_over"], taken_over]
    elif kind == "PromiseGivenBack":
        taken = [t for t in clock["taken_over"] if t["target"] == data["target"]]
        clock["taken_over"] = [t for t in clock["taken_over"] if t != taken[-1]]
    elif kind == "MergeUndone":
        gone = {"relation": "merged_from", "ticket": UUID(data["ticket"])}
        new["links"] = [link for link in new["links"] if link != gone]
        new["last_merge"] = None
    elif kind == "TicketUnmerged":
        new |= {"status": data["status"], "waiting_reason": data["reason"]}
        new["resume_at"] = _time(data["resume_at"]) if data["resume_at"] else None
        new |= {"close_reason": None, "closed_at": None, "before_merge": None}
        new["links"] = [link for link in new["links"] if link["relation"] != "merged_into"]
    elif kind == "TicketMergedFrom":
        new["last_merge"] = {
            "ticket": UUID(data["ticket"]),
            "followers": data["followers"],
            "tags": new["tags"],
            "files": len(new["attachments"]),
            "links": new["links"],
            "unlinked": [],
        }
        merged = {"relation": "merged_from", "ticket": UUID(data["ticket"])}
        new["links"] = [*new["links"], merged]
        new["followers"] = sorted({*new["followers"], *data["followers"]})
    elif kind == "TicketRated":
        new["rating"] = data
    elif kind == "SlaBreached":
        target = data["target"]
        clock["breached"] = {**clock["breached"], target: _time(data["due_at"])}
        if target == "next_response" and target not in clock["overdue"]:
            clock["asked_ms"] = None
        left = {**clock["overdue"], target: clock["overdue"].get(target, [])[1:]}
        clock["overdue"] = {k: v for k, v in left.items() if v}
    elif kind == "SubjectChanged":
        new["subject"] = data["subject"]
    elif kind == "StatusUpdated":
        resume_at = data["resume_at"]
        new |= {"status": data["status"], "waiting_reason": data["reason"]}
        new["resume_at"] = _time(resume_at) if resume_at else None
    elif kind == "TagsAdded":
        new["tags"] = sorted(set(new["tags"]) | set(data["tags"]))
    elif kind == "TagsRemoved":
        new["tags"] = sorted(set(new["tags"]) - set(data["tags"]))
        if merge := new["last_merge"]:
            new["last_merge"] = {**merge, "tags": sorted({*merge["tags"], *data["tags"]})}
    elif kind == "FieldSet":
        rest = {k: v for k, v in new["fields"].items() if k != data["key"]}
        new["fields"] = rest | ({} if data["value"] is None else {data["key"]: data["value"]})
        hidden = {*new["internal_fields"]} - {data["key"]}
        if data.get("is_internal", False) and data["value"] is not None:
            hidden.add(data["key"])
        new["internal_fields"] = sorted(hidden)
    elif kind in ("ReplyForwarded", "MessageRedacted"):
        pass
    elif kind == "NoteAdded":
        new["has_note"] = True
    elif kind in ("AgentReplied", "RequesterReplied"):
        new["preview"] = " ".join(data["body"].split())[:50]
        who = "agent_replies" if kind == "AgentReplied" else "requester_replies"
        new[who] += 1
        if answers:
            clock |= {"answered": True, "asked": False, "asked_ms": None}
            kept = [t for t in clock["taken_over"] if t["target"] == "resolution"]
            clock["taken_over"] = kept
        asks = kind == "RequesterReplied" and not data.get("automatic")
        if asks and clock["answered"] and not clock["asked"]:
            clock |= {"asked": True, "asked_ms": _used(clock, at) // timedelta(milliseconds=1)}
        new["last_merge"] = None if answers else new["last_merge"]
        if answers and new["first_response_at"] is None:
            new["first_response_at"] = at
            new["first_response_seconds"] = _public_seconds(new)
    elif kind in ("TicketResolved", "TicketReopened", "TicketClosed", "TicketMergedInto"):
        if kind == "TicketMergedInto":
            waits = {k: new[k] for k in ("status", "waiting_reason", "resume_at", "tags")}
            new["before_merge"] = waits
        status = {"TicketResolved": "resolved", "TicketReopened": "open"}
        new |= {"status": status.get(kind, "closed"), "waiting_reason": None, "resume_at": None}
        if kind == "TicketResolved":
            new["last_merge"] = None
            new |= {"resolution": data["resolution"], "resolved_at": at}
            new["resolution_seconds"] = _public_seconds(new)
        elif kind == "TicketReopened":
            new |= {"resolution": None, "resolved_at": None, "resolution_seconds": None}
            new["reopenings"] += 1
        elif kind == "TicketMergedInto":
            merged = {"relation": "merged_into", "ticket": UUID(data["ticket"])}
            new |= {"close_reason": "merged", "closed_at": at, "links": [*new["links"], merged]}
        else:
            new |= {"close_reason": data["reason"], "closed_at": at}
    else:
        raise AssertionError(f"the oracle does not know {kind}")
    over = new["resume_at"] is not None and new["resume_at"] <= at
    _turn(clock, at, on=over or new["status"] in ("new", "open", "on_hold"))
    return _with_times(new)


# The clock of what was promised, reckoned from all the spans in which it ran, each by a calendar.

NOTHING: Document = {
    "first_response_minutes": None,
    "next_response_minutes": None,
    "resolution_minutes": None,
    "calendar": None,
}
TARGETS = ("first_response", "next_response", "resolution")


def _clock(targets: Document | None, at: datetime) -> Document:
    promised = {**NOTHING, **(targets or {})}
    clock: Document = {"answered": False, "asked": False, "asked_ms": None, "taken_over": []}
    spans = [(at, None, promised["calendar"])]
    return {**clock, "overdue": {}, "breached": {}, "targets": promised, "spans": spans}


def _used(clock: Document, now: datetime) -> timedelta:
    """What has counted by now."""
    spans = ((s, max(s, now) if e is None else e, by) for s, e, by in clock["spans"])
    return sum((business_hours.counted(by, s, e) for s, e, by in spans), timedelta())


def _ends(clock: Document) -> dict[str, datetime]:
    """When each target runs out that has not yet, if nothing stops the clock."""
    start, end, calendar = clock["spans"][-1]
    if end is not None:
        return {}
    begun = {
        "first_response": None if clock["answered"] else 0,
        "next_response": clock["asked_ms"],
        "resolution": 0,
    }
    ends = {}
    for target, from_ms in begun.items():
        minutes = clock["targets"][f"{target}_minutes"]
        out = target != "next_response" and (
            target in clock["overdue"] or target in clock["breached"]
        )
        if minutes is None or from_ms is None or out:
            continue
        limits = [t["limit_ms"] for t in clock["taken_over"] if t["target"] == target]
        limit = min([minutes * 60_000, *limits])
        left = timedelta(milliseconds=limit + from_ms) - _used(clock, start)
        ends[target] = business_hours.later(calendar, start, left)
    return ends


def _passed(clock: Document, at: datetime) -> Document:
    out = {target: end for target, end in _ends(clock).items() if end <= at}
    overdue = {**clock["overdue"]}
    for target, end in out.items():
        overdue[target] = [*overdue.get(target, []), end]
    asked_ms = None if "next_response" in out else clock["asked_ms"]
    return {**clock, "overdue": overdue, "asked_ms": asked_ms}


def _turn(clock: Document, at: datetime, *, on: bool) -> None:
    start, end, calendar = clock["spans"][-1]
    if on and end is not None:
        clock["spans"] = [*clock["spans"], (max(at, end), None, clock["targets"]["calendar"])]
    elif not on and end is None:
        clock["spans"] = [*clock["spans"][:-1], (start, max(at, start), calendar)]


def _promise(clock: Document, targets: Document | None, at: datetime) -> None:
    """Promise something else; another calendar counts from now on."""
    promised = {**NOTHING, **(targets or {})}
    start, end, calendar = clock["spans"][-1]
    clock["targets"] = promised
    if promised["calendar"] != calendar:
        now = max(at, start if end is None else end)
        closed = (start, now if end is None else end, calendar)
        after = (now, None if end is None else now, promised["calendar"])
        clock["spans"] = [*clock["spans"][:-1], closed, after]


def _with_times(read: Document) -> Document:
    clock = read["sla"]
    ends = _ends(clock)
    out = {**clock["breached"], **{target: times[-1] for target, times in clock["overdue"].items()}}
    for target in TARGETS:
        read[f"{target}_due_at"] = ends.get(target, out.get(target))
    if not (clock["asked"] and clock["asked_ms"] is None):
        read["next_response_due_at"] = ends.get("next_response")
    read["sla_breached"] = sorted(clock["breached"])
    overdue = [time for times in clock["overdue"].values() for time in times]
    read["due_at"] = min([*ends.values(), *overdue], default=None)
    times = (read["due_at"], read["resume_at"])
    read["next_due_at"] = min((time for time in times if time), default=None)
    return read


def _as_stored(read: Document) -> Document:
    read["participants"] = sorted({read["requester"], *read["followers"]})
    clock = dict(read["sla"])
    read = {**read, "shape": SHAPE}
    read |= _found_by(read, read.pop("texts"))
    start, end, _ = clock["spans"][-1]
    clock["elapsed_ms"] = _used(clock, start) // timedelta(milliseconds=1)
    del clock["spans"]
    clock |= {"running": end is None, "since": end or start}
    return {**read, "sla": clock}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def recounted(reads: Mapping[Any, Document]) -> dict[tuple[str, str], int]:
    """Add up what the dashboard's counters must hold, by period and group, and path."""
    counts: Counter[tuple[str, str]] = Counter()
    for read in reads.values():
        for key, n in read["counted"].items():
            listed, metric, group, labels = key.split("|")
            for place, day in enumerate(of_each_zone(listed)):
                label = of_each_zone(labels)[place] if metric == "opened_on" else labels
                for period in (day, day[:7], day[:4]):
                    for whose in ("", group):
                        where = f"{_mark(place)}{period}/{whose}"
                        counts[where, f"{metric}.{label}"] += n
    return {key: n for key, n in counts.items() if n}


def _mark(place: int) -> str:
    return f"@{place}:" if place else ""


async def assert_views_equal_the_log(database: Database, parked: Iterable[Any] = ()) -> None:
    """L7: read models == fold(events), counters == a recount, checkpoints == the log's count.

    `parked`: the tickets that wait, and no others, are shown as before what they stopped at.
    """
    waiting = {
        p["_id"]: p["version"]
        for p in await _shown(database, "parked_tickets")
        if p["version"] is not None
    }
    assert set(waiting) == set(parked)
    expected = await folded_reads(database, waiting, await counted_zones(database))
    stored = {d["_id"]: d for d in await _shown(database, "ticket_reads")}
    assert stored.keys() == expected.keys()
    views = {view["id"] for view in await _all(database, "saved_views")}
    for ticket_id, document in expected.items():
        # Views that are gone may stand in a document until it is next written.
        counting = [view for view in stored[ticket_id]["in_views"] if view in views]
        assert {**stored[ticket_id], "in_views": counting} == document
    shown: Counter[tuple[str, str]] = Counter()
    for counter in await _shown(database, "dashboard_counters"):
        where = f"{counter['period']}/{counter['group']}"
        assert counter["_id"].startswith(f"{where}/")
        for metric, labels in counter["n"].items():
            for label, n in labels.items():
                shown[where, f"{metric}.{label}"] += n
    assert {key: n for key, n in shown.items() if n} == recounted(expected)
    counts: Counter[str] = Counter()
    for count in await _shown(database, "saved_view_counts"):
        counts[count["view"]] += count["n"]
    for view in await _all(database, "saved_views"):
        assert counts[view["id"]] == sum(view["id"] in d["in_views"] for d in expected.values())
    weeks: Counter[str] = Counter()
    for week in await _shown(database, "agent_weeks"):
        assert week["_id"].startswith(f"{week['week']}/{week['agent']}/")
        for what, n in week["n"].items():
            weeks[f"{week['week']}|{week['agent']}|{what}"] += n
    worked: Counter[str] = Counter()
    for document in expected.values():
        for key, n in document["worked"].items():
            listed, rest = key.split("|", 1)
            for place, monday in enumerate(of_each_zone(listed)):
                worked[f"{_mark(place)}{monday}|{rest}"] += n
    assert {key: n for key, n in weeks.items() if n} == {k: n for k, n in worked.items() if n}
    checkpoints = await _shown(database, "projections")
    applied: Counter[int] = Counter()
    for ticket_id, document in expected.items():
        applied[int(str(ticket_id)[-2:], 16) % 64] += document["version"]
    assert {c["_id"]: c["applied"] for c in checkpoints if c["_id"] != "log"} == {
        n: applied[n] for n in range(64)
    }
