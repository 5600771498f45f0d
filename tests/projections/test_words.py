"""What a text is found by: in any script, whole and nothing else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.tickets import encode
from domain.tickets.details import FileAttached, FileDetached
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained
from projections.views import tickets
from projections.views.filter import says
from projections.views.tickets import MOST_WORDS
from projections.views.words import query_terms, words
from tests import oracle
from tests.oracle import assert_views_equal_the_log
from tests.projecting import add, caught_up, open_some, running
from tests.spec import ALICE, NOW, TICKET, opened

FOUND = [
    # a text, what finds it
    ("Printer JAM", "printer jam"),
    ("The file is report-2026.PDF.", "report pdf"),
    ("report.pdf", "report.pdf"),
    ("mail to Bob.Smith@Example.com!", "bob.smith@example.com"),
    ("mail to Bob.Smith@Example.com!", "smith"),
    ("from mail.example.com", "example.com"),
    ("from mail.example.com", "mail.example"),
    ("1.2.3.4.5.6.7", "2.3.4.5.6"),
    ("see C-1042.", "c-1042"),
    ("see C-1042.", "1042"),
    ("2026-03-01T12:00", "2026-03"),
    ("It doesn’t print", "doesn't"),
    ("L'imprimante est cassée", "imprimante CASSEE"),
    ("Größe STRASSE", "grosse straße"),
    ("Ещё ein Büro", "еще buro"),
    ("ﬁle １２３ Ｐｒｉｎｔｅｒ", "file 123 printer"),
    ("Drucker\u00adpapier", "druckerpapier"),
    ("打印机卡纸了。请帮忙", "打印机"),
    ("打印机卡纸了。请帮忙", "卡纸"),
    ("打印机卡纸了。请帮忙", "纸"),
    ("打印机卡纸了。请帮忙", "忙"),
    ("打印机A4纸", "a4"),
    ("ｶﾞｲﾄﾞを見る", "ガイド"),
    ("コピー機が壊れた", "コピー機"),
    ("ไม่มีกระดาษ", "กระดาษ"),
    ("हिन्दी में टाइप", "हिन्दी"),
    ("프린터가 고장", "고장"),
    ("שָׁלוֹם", "שלום"),
    ("مُحَمَّد", "محمد"),
]
NOT_FOUND = [
    ("Printers", "printer"),
    ("report.pdf2", "report.pdf"),
    ("3 of the 14", "3.14"),
    ("vitamin c, 1042", "C-1042"),
    ("myexample.com", "example.com"),
    ("1.2.3.4.6.7", "2.3.4.5.6"),
    ("don said: t", "don't"),
    ("打印纸印机", "打印机"),  # all pairs of it are there
    ("打印。机", "打印机"),
    ("かいと", "がいど"),
    ("ไมมี", "ไม่มี"),
    ("हिनदी", "हिन्दी"),
]


def document(text):
    return {"terms": words(text)}


@pytest.mark.parametrize(("text", "asked_for"), FOUND)
def test_a_text_is_found_as_people_write_and_type_it(text, asked_for):
    assert says(asked_for).matches(document(text))


@pytest.mark.parametrize(("text", "asked_for"), NOT_FOUND)
def test_nothing_is_found_that_is_another_word(text, asked_for):
    assert not says(asked_for).matches(document(text))


def test_a_prefix_finds_what_begins_so_and_no_field():
    assert says("print", is_prefix=True).matches(document("Printers"))
    assert says("mail.exam", is_prefix=True).matches(document("at mail.example.com"))
    assert not says("print", is_prefix=True).matches({"terms": ["=printer=3"]})
    assert not says("机卡纸").matches({"terms": ["机卡", "卡纸", "=issue=机卡纸"]})


LIKELY = st.lists(st.sampled_from("ab1É_ .,'’-@=打印机がﾞｶไม่महि\u00ad"), max_size=40).map("".join)


@given(LIKELY)
def test_words_are_those_of_the_oracle(text):
    """L7"""
    assert words(text) == oracle._words(text)


@given(LIKELY, LIKELY)
def test_a_text_is_found_by_itself_among_others(text, other):
    """Whatever was pasted; in words of any length and runs of any length."""
    stored = document(f"{other} {text} {other}")
    assert says(text).matches(stored)
    assert all(word.text for word in query_terms(text))


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_found_by_itself(text, other):
    assert says(text).matches(document(f"{other} {text} {other}"))


def test_a_long_run_is_found_by_any_part_of_it():
    chance = random.Random(3)  # noqa: S311
    run = "".join(chr(chance.randrange(0x4E00, 0x9000)) for _ in range(500))
    stored = document(run)
    for _ in range(200):
        first = chance.randrange(490)
        part = run[first : first + chance.randrange(1, 200)]
        assert says(part).matches(stored)
        if len(part) > 4:
            assert not says(part[:2] + part[3:]).matches(stored)


async def test_the_words_of_all_that_was_said_are_in_the_view(database, store):
    """L7: and those for colleagues apart from those that requesters find a ticket by."""
    [ticket, other] = await open_some(store, 2, versions=1)
    await add(store, ticket, "AgentReplied", NOW, body="打印机卡纸了 Printer's")
    await add(store, ticket, "SubjectChanged", NOW, subject="Secret printers, and paper")
    async with running(database):
        await caught_up(database, store)
        await add(store, ticket, "NoteAdded", NOW, body="The printers are a SECRET disaster")
        await caught_up(database, store)
        await add(store, ticket, "SubjectChanged", NOW, subject="Toner")
        await add(store, ticket, "RequesterReplied", NOW, body="disaster")
        file = {"name": "log.2026.txt", "media_type": "text/plain", "size_bytes": 1}
        await add(store, ticket, "FileAttached", NOW, **file, sha256="0" * 64)
        await add(store, ticket, "FieldSet", NOW, key="floor", value=3)
        await add(store, ticket, "TicketAssigned", NOW, assignee="alice")
        await add(store, ticket, "TicketResolved", NOW, resolution="Zurückgesetzt")
        await add(store, other, "NoteAdded", NOW, body=" ".join(map(str, range(MOST_WORDS + 9))))
        await caught_up(database, store)
    await assert_views_equal_the_log(database)
    reads = {d["_id"]: d for d in await database.collection("ticket_reads").find().to_list()}
    found, public = reads[ticket]["terms"], reads[ticket]["public_terms"]
    assert {"secret", "disaster", "toner", "打印", "log.2026.txt", "txt"} < {*found}
    assert {*found} - {*public} == {"the", "printers", "are", "a", "secret"}
    assert "paper" not in found
    assert reads[other]["said"] == MOST_WORDS


def test_a_ticket_is_found_by_the_names_of_the_files_that_it_has():
    """Not by that of one that a merge had brought, once that is undone."""
    names = {"jam.png": False, "secret.txt": True}
    files = [FileAttached(name, "a/b", 1, "a" * 64, internal) for name, internal in names.items()]
    gone = [FileDetached(file.name, file.sha256, file.is_internal) for file in files]
    about = Metadata(ALICE, CommandRef("k", "f"))
    events = [encode(event, "bob") for event in (opened(), *files, *gone)]
    envelopes = chained(TICKET, EMPTY, events, about, NOW, NOW)
    before, both, after = (tickets.fold(None, envelopes[:n]) for n in (1, 3, 5))
    assert before
    assert both
    assert after
    assert {"jam.png", "secret.txt"} <= {*both.terms}
    assert both.public_terms is not None
    assert {"jam.png", "secret.txt"} & {*both.public_terms} == {"jam.png"}
    assert (after.terms, after.public_terms) == (before.terms, None)
