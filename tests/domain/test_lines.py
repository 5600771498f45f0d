"""What names and one-line values are made of."""

import sys
import unicodedata
from uuid import uuid4

import pytest

from api.access.keys import KeyOrder, Keys
from api.commands.handler import Handler, Submission
from api.desk.store import Desks
from domain.codec import EventData
from domain.desk import Desk
from domain.errors import Unacceptable
from domain.lines import _lines_of, check_line
from domain.tickets import COMMANDS
from domain.tickets.assignment import AssignTicket
from domain.tickets.details import ChangeSubject
from domain.tickets.opening import OpenTicket
from domain.values import JsonObject
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained, fingerprint, utc_now
from tests.api.test_api import OPEN, client, is_problem, ticket
from tests.spec import ALICE, BOB, NOW

__all__ = ["client", "ticket"]

BREAKS = ("\t", "\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029")
TURNS = tuple(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070))))
HIDES = (
    *("\xad", "\u180e", "\u200b", "\u2060", "\u2063", "\ufeff", "\ufff9", "\U000e0041"),
    *("\u3164", "\u115f", "\uffa0", "\u034f", "\u2800", "\U000e0001", "\U000e0fff"),
)
NO_CHARACTERS = ("\ud800", "\udfff", "\ufdd0", "\uffff", "\U0010ffff", "\U0001fffe")


@pytest.mark.parametrize("character", [*BREAKS, *TURNS, *HIDES, *NO_CHARACTERS])
def test_nothing_in_a_line_breaks_it_or_turns_or_hides(character):
    """L12: the refusal names what is in the way."""
    for text in (f"a{character}b", character, f"{character}b", f"ب{character}ب"):
        with pytest.raises(Unacceptable, match=rf"name must not hold U\+{ord(character):04X}"):
            check_line("name", text)


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "Zoë Ångström-Müller, 2nd",
        "Ελένη Παπαδοπούλου",
        "محمد بن سلمان",
        "نمی\u200cدانم",  # Persian
        "क्\u200dष",  # Devanagari
        "ශ්\u200dරී",  # Sinhala
        "山田太郎",
        "葛\U000e0100城",  # a variant of a character, as in names
        "한국어",
        "ประเทศไทย",
        "👩\u200d💻 on call",
        "👩🏽\u200d🚒",
        "❤\ufe0f\u200d🔥",
        "🏳\ufe0f\u200d🌈",
        "🇮🇹",
        "1\ufe0f\u20e3 floor, ℹ\ufe0f, ↔\ufe0f",
        "\U0001fae9",  # of a later Unicode than some Pythons know
        "\ue000",  # private use
        "\u0600١٢",
        "a\u3000b\xa0c",
    ],
)
def test_names_of_all_scripts_are_taken(text):
    check_line("name", text)


@pytest.mark.parametrize(
    "text",
    ["bob\ufe0f", "bob\U000e0100", "bob\u180b", "\ufe0f", "bob1\ufe0f", "葛\U000e0100\U000e0101"],
)
def test_a_variation_selector_stands_behind_what_has_variants(text):
    """Elsewhere it would make another name that looks the same, or hide what it says."""
    with pytest.raises(Unacceptable):
        check_line("name", text)


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
@pytest.mark.parametrize("where", ["ad{}min", "{}admin", "نم{}", "ب{} ب", "ب{}{}ب", "1{}2", "ب{}a"])
def test_a_joiner_joins_or_is_refused(joiner, where):
    """It would make another name that looks the same."""
    with pytest.raises(Unacceptable):
        check_line("name", where.replace("{}", joiner))


def test_all_of_unicode_by_its_categories():
    """Whatever is added to it: what is refused within a line is what it says of itself."""
    taken = set()
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        try:
            check_line("name", f"a{character}b")
        except Unacceptable:
            continue
        taken.add(unicodedata.category(character))
        assert len(f"a{character}b".splitlines()) == 1
        assert unicodedata.bidirectional(character) not in {
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        }
    assert not taken & {"Cc", "Cs", "Zl", "Zp"}


def test_every_command_says_which_of_its_values_are_lines():
    lines = {verb: _lines_of(command) for verb, command in COMMANDS.items()}
    assert {verb: set(fields) for verb, fields in lines.items() if fields} == {
        "open": {"subject", "requester", "group"},
        "redact": {"reason"},
        "update_status": {"reason"},
        "reopen": {"reason"},
        "assign": {"assignee"},
        "move_to_group": {"group"},
        "change_subject": {"subject"},
        "change_requester": {"requester"},
        "follow": {"follower"},
        "unfollow": {"follower"},
        "attach": {"name"},
    }


async def test_a_client_is_told_what_is_in_the_way(client, ticket):
    """L12: and nothing has changed."""
    for path, body in (
        ("/tickets", {**OPEN, "subject": "Invoice \u202efdp.exe"}),
        ("/tickets", {**OPEN, "requester": "bob\u200b"}),
        (f"{ticket}/assign", {"assignee": "al\u00adice"}),
        (f"{ticket}/change_subject", {"subject": "two\nlines"}),
        (f"{ticket}/move_to_group", {"group": "a\tb"}),
        (f"{ticket}/follow", {"follower": "car\u2066ol"}),
    ):
        answer = await client.post(path, json=body)
        is_problem(answer, 422, "not_one_line")
    assert (
        "SOFT HYPHEN"
        in (await client.post(f"{ticket}/assign", json={"assignee": "al\u00adice"})).json()[
            "detail"
        ]
    )
    assert (await client.get(ticket)).json()["version"] == 2
    taken = await client.post(f"{ticket}/reply", json={"body": "two\nlines\u202e\u200b"})
    assert taken.status_code == 200


async def test_what_was_taken_before_is_read_and_may_come_again(database, store):
    """L5, L10: a command that an earlier version took is answered as it was then."""
    handler, odd = Handler(store), "two\nlines\u202e"
    ticket_id = uuid4()
    opening = OpenTicket(subject=odd, requester="bob\u200b", group="a\tb")
    content = opening.model_dump(mode="json", exclude_defaults=True)
    command = CommandRef("k1", fingerprint({"command": "open", "content": content}))
    data: JsonObject = {
        "subject": odd,
        "requester": "bob\u200b",
        "group": "a\tb",
        "body": "",
        "tags": [],
        "priority": "normal",
        "fields": {},
        "sla": {"first_response_minutes": None, "resolution_minutes": None},
    }
    stored = [EventData("TicketOpened", 2, data)]
    about = Metadata(BOB, command)
    await store.append(chained(ticket_id, EMPTY, stored, about, NOW, utc_now()))
    again = await handler.handle(ticket_id, Submission(command=opening, actor=BOB, key="k1"))
    assert (again.replayed, again.version) == (True, 1)
    with pytest.raises(Unacceptable):
        await handler.handle(ticket_id, Submission(command=opening, actor=BOB, key="k2"))
    new = ChangeSubject(subject=odd)
    with pytest.raises(Unacceptable):
        await handler.handle(ticket_id, Submission(command=new, actor=ALICE))
    assign = Submission(command=AssignTicket(assignee="alice"), actor=ALICE)
    assert (await handler.handle(ticket_id, assign)).version == 2


async def test_keys_and_desks_take_no_such_names_either(database):
    """But a desk that has one may be changed otherwise."""
    with pytest.raises(Unacceptable):
        await Keys(database).make(KeyOrder(principal="al\u00adice", role="agent"), "x")
    desks = Desks(database)
    for wrong in (
        Desk(groups={"pri\u200bnt": ("alice",)}),
        Desk(groups={"print": ("al\u202eice",)}),
        Desk.model_validate({"fields": {"floor": {"type": "choice", "choices": ["1\u20282"]}}}),
    ):
        with pytest.raises(Unacceptable):
            await desks.replace(wrong, ALICE, None)
    old = Desk(groups={"pri\u200bnt": ("alice",)})
    await desks.replace(Desk(groups={"print": ("alice",)}), ALICE, None)
    stored = [{"name": "pri\u200bnt", "members": ["alice"]}]
    await database.collection("desks").update_many({}, {"$set": {"desk.groups": stored}})
    assert (await desks.read()).desk == old
    more = Desk(groups={"pri\u200bnt": ("alice", "carol")})
    assert (await desks.replace(more, ALICE, None)).desk == more
