"""Bad input, by the hundred: each request is one that must be refused and must change nothing."""

import json
from typing import NamedTuple

JSON = {"Content-Type": "application/json"}
NOBODY = "0192f0c4-0000-7000-8000-000000000001"
T = "/tickets/{ticket}"
_OPEN = {"subject": "Printer jam", "requester": "bob"}
_NOTE = {"body": "odd"}
_LIST: list[object] = []
_OBJECT: dict[str, object] = {}
_WEBHOOK = {"url": "http://127.0.0.1:9000/casebook"}
_FILE = {"name": "a.png", "media_type": "image/png", "size_bytes": 1, "sha256": "0a" * 32}


class Bad(NamedTuple):
    """A request, and the status and code that it is to be answered with."""

    method: str
    path: str
    content: bytes
    headers: dict[str, str]
    status: int
    code: str


def _post(path, content, status=422, code="invalid_request", headers=JSON, method="POST"):
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    return Bad(method, path, content, headers, status, code)


def _get(path, status=422, code="invalid_request"):
    return Bad("GET", path, b"", {}, status, code)


def _unreadable():
    """Bodies that are no JSON, or not the same to every reader."""
    deep = b"[" * 40 + b"]" * 40
    contents = [
        b"{",
        b"{bad",
        b"nul",
        b"NaN",
        b"'x'",
        b"{'subject': 'x'}",
        b"{subject: 1}",
        b'{"subject": "x",}',
        b'{"subject": "x"} trailing',
        b'{"subject": "x"}{"subject": "y"}',
        b'{"subject": "x" // why\n}',
        b'{"subject": "x" /* why */}',
        b'{"subject": "a\nb"}',
        b'{"subject": "a\x00b"}',
        b'{"subject": "\\x41"}',
        b'{"subject": "\\u12"}',
        b'{"subject": +1}',
        b'{"subject": 01}',
        b'{"subject": .5}',
        b'{"subject": 1.}',
        b'{"subject": 0x10}',
        b'{"subject": True}',
        b'{"subject": undefined}',
        b'{"subject": NaN, "requester": "b"}',
        b'{"subject": Infinity, "requester": "b"}',
        b'{"subject": -Infinity, "requester": "b"}',
        b'{"subject": "x", "subject": "y", "requester": "b"}',
        b'{"subject": "x", "requester": "b", "fields": {"a": 1, "a": 2}}',
        b'{"subject": "x", "requester": "b", "\\u0073ubject": "y"}',
        b'{"subject": ' + b"1" * 5000 + b"}",
        b'{"subject": "\xff"}',
        b'{"subject": "\xc0\xaf"}',
        b'{"subject": "\xed\xa0\x80"}',
        b"\xff\xfe{\x00}\x00",
        b"\x00\x00\x00{",
        b"\xef\xbb\xbf" + json.dumps(_OPEN).encode(),
        json.dumps(_OPEN).encode("utf-16"),
        json.dumps(_OPEN).encode("utf-32"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"subject": "x", "requester": "b", "fields": {"a": ' + deep + b"}}",
        b" ",
        b"\n\n",
        b"<ticket><subject>x</subject></ticket>",
        b"subject=x&requester=b",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    ]
    for content in contents:
        yield _post("/tickets", content, 400, "bad_json")
    for path in (f"{T}/add_note", "/bulk/add_note", "/webhooks"):
        yield _post(path, b'{"body": "x", "body": "y"}', 400, "bad_json")
    yield _post("/desk", b'{"groups": {}, "groups": {}}', 400, "bad_json", method="PUT")
    yield _post("/views/mine", b'{"filter": NaN}', 400, "bad_json", method="PUT")
    for size in (5, 15):
        large = b'{"subject": "' + b"x" * size * 2**20 + b'"}'
        yield _post("/tickets", large, 413, "request_entity_too_large")


def _mistyped():
    """Bodies that are said to be something else, or nothing at all."""
    content = json.dumps(_OPEN).encode()
    for said in (
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/octet-stream",
        "application/jsonp",
        "application/",
        "json",
        "image/png",
        "*/*",
        "application/json5",
        ";",
    ):
        headers = {"Content-Type": said}
        yield _post("/tickets", content, 415, "unsupported_media_type", headers)
        yield _post(f"{T}/add_note", _NOTE, 415, "unsupported_media_type", headers)
    yield _post("/tickets", content, 415, "unsupported_media_type", {})


def _misshapen():
    """JSON that is no object, or has members that nobody asked for."""
    for content in ([], [_OPEN], "x", 1, True, None, 0.5):
        yield _post("/tickets", content)
        yield _post(f"{T}/reply", content)
    yield _post("/tickets", b"")
    yield _post(f"{T}/reply", b"")
    for extra in (
        "status",
        "version",
        "_id",
        "$where",
        "$set",
        "a.b",
        "__proto__",
        "constructor",
        "Subject",
        "subject ",
        "",
        "\u0000",
        "ticket_id",
        "hash",
        "actor",
        "recorded_at",
    ):
        yield _post("/tickets", {**_OPEN, extra: "x"})
    for extra in ("at", "actor", "$inc", "internal", "ticket"):
        yield _post(f"{T}/add_note", {**_NOTE, extra: 1})


_NO_TEXT: tuple[object, ...] = (
    None,
    1,
    0.5,
    True,
    [],
    ["x"],
    {},
    {"$ne": None},
    {"$gt": ""},
    {"$where": "sleep(1000)"},
    {"$regex": ".*"},
)
_NO_NAME = (*_NO_TEXT, "a\u0000b", "a\u001bb", "a\u007fb")


def _misvalued():
    """Members with values that cannot be."""
    for value in (*_NO_TEXT, "", "   ", "\u0000", " \u001b\u007f"):
        yield _post("/tickets", {**_OPEN, "subject": value})
        yield _post(f"{T}/reply", {"body": value})
    for value in _NO_NAME:
        yield _post("/tickets", {**_OPEN, "requester": value})
        yield _post(f"{T}/assign", {"assignee": value})
    for value in (*_NO_TEXT, "", "huge", "Normal", "NORMAL", "normal\n"):
        yield _post("/tickets", {**_OPEN, "priority": value})
    for lone in (b'"\\ud800"', b'"\\udfff x"', b'"x\\ud83d"'):
        yield _post("/tickets", b'{"subject": ' + lone + b', "requester": "b"}')
        yield _post(f"{T}/add_note", b'{"body": ' + lone + b"}")
        yield _post(f"{T}/set_field", b'{"key": "k", "value": ' + lone + b"}")
    yield _post("/tickets", {**_OPEN, "subject": "x" * 501})
    yield _post("/tickets", {**_OPEN, "requester": "x" * 201})
    yield _post("/tickets", {**_OPEN, "body": "x" * 50_001})
    for tags in (
        "x",
        [1],
        [None],
        [""],
        ["A!"],
        ["a b"],
        ["-a"],
        ["x" * 65],
        ["\u00e9\u200b"],
        [["a"]],
    ):
        yield _post(f"{T}/add_tags", {"tags": tags})
    yield _post(f"{T}/add_tags", {"tags": [f"t{n}" for n in range(51)]})
    yield _post(f"{T}/add_tags", {"tags": []})
    for key in ("", "A", "1a", "a.b", "$a", "a b", "a\u0000", "x" * 65, None, 1, _LIST, _OBJECT):
        yield _post(f"{T}/set_field", {"key": key, "value": 1})
    for value in (
        0.5,
        [],
        {},
        [1],
        {"$inc": 1},
        {"a": 1},
        2**63,
        -(2**63) - 1,
        10**30,
        "x" * 5_001,
    ):
        yield _post(f"{T}/set_field", {"key": "k", "value": value})
    for number in (b"1e400", b"-1e400", b"1.0", b"1e3"):
        yield _post(f"{T}/set_field", b'{"key": "k", "value": ' + number + b"}")
    for status in ("merged", "", "OPEN", None, 1, ["open"], {"$ne": "open"}):
        yield _post(f"{T}/update_status", {"status": status, "reason": "x"})
    for time in (
        "tomorrow",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-03-01T25:00:00Z",
        "2026-03-01T00:00:00",
        "2026-03-01",
        "0001-01-01T00:00:00+12:00",
        "9999-12-31T23:59:59-12:00",
        0,
        1e12,
        True,
        _OBJECT,
    ):
        yield _post(f"{T}/update_status", {"status": "pending", "reason": "x", "resume_at": time})
    for score in (0, 6, -1, 1.5, "5", True, None, _LIST, 10**30):
        yield _post(f"{T}/rate", {"score": score})
    for member, values in {
        "size_bytes": (-1, 2**53, 0.5, "1", True, None),
        "sha256": ("", "x" * 64, "0A" * 32, "0a" * 31, 1),
        "media_type": ("", "png", "image/", "/png", "image/png/x", "image png", 1, None),
        "name": ("", "a\u0000b", "x" * 201, 1, None),
    }.items():
        for value in values:
            yield _post(f"{T}/attach", {**_FILE, member: value})
    for other in ("", "x", 1, None, NOBODY[:-1], NOBODY + "0", {"$ne": 1}):
        yield _post(f"{T}/link", {"relation": "blocks", "ticket": other})
        yield _post(f"{T}/merge", {"into": other})
    for relation in ("", "child", "knows", 1, None, ["blocks"]):
        yield _post(f"{T}/link", {"relation": relation, "ticket": NOBODY})


def _refused():
    """What is well written and cannot be done."""
    yield _post(f"{T}/update_status", {"status": "closed"}, 422, "cannot_close_by_status")
    yield _post(f"{T}/update_status", {"status": "new"}, 422, "cannot_return_to_new")
    yield _post(f"{T}/reopen", {}, 409, "transition_refused")
    yield _post(f"{T}/link", {"relation": "blocks", "ticket": NOBODY}, 422, "unknown_ticket")
    yield _post(f"{T}/merge", {"into": NOBODY}, 422, "unknown_ticket")
    yield _post(f"/tickets/{NOBODY}/add_note", _NOTE, 404, "ticket_not_found")
    for verb in ("closed", "delete", "open", "Assign", "assign/", "$where", "%00"):
        yield _post(f"{T}/{verb}", {}, 404, "not_found")
        yield _post(f"/bulk/{verb}", {}, 404, "not_found")


def _bulk():
    some = {"tickets": [NOBODY], "command": _NOTE}
    for tickets in (
        _LIST,
        [NOBODY] * 2,
        ["x"],
        "x",
        None,
        _OBJECT,
        [None],
        [f"{n:032x}" for n in range(101)],
    ):
        yield _post("/bulk/add_note", {**some, "tickets": tickets})
    for command in (None, _LIST, "x", _OBJECT, {"body": 1}, {**_NOTE, "$set": 1}):
        yield _post("/bulk/add_note", {**some, "command": command})
    yield _post("/bulk/add_note", {**some, "all": True})


def _headers():
    def with_(name, value, code="invalid_request", status=422):
        return _post(f"{T}/add_note", _NOTE, status, code, {**JSON, name: value})

    for key in ("", "x" * 1000):
        yield with_("Idempotency-Key", key)
    for tag in ('"x"', "-1", '"1', "x", '"1", "2"', "9" * 30, "1.0"):
        yield with_("If-Match", tag, "bad_if_match")
    yield with_("If-Match", '"99"', "version_mismatch", 412)


def _queries():
    for path in (
        "/tickets?status=broken",
        "/tickets?status=$ne",
        "/tickets?status[$ne]=open",
        "/tickets?limit=0",
        "/tickets?limit=201",
        "/tickets?limit=-1",
        "/tickets?limit=1.5",
        "/tickets?limit=x",
        "/tickets?limit=1&limit=x",
        "/tickets?asignee=alice",
        "/tickets?assignee=%00",
        "/tickets?assignee=" + "x" * 201,
        "/tickets?priority=huge",
        "/tickets?tag=A%20B",
        "/tickets?tag=$where",
        "/tickets?field=floor",
        "/tickets?sort=color",
        "/tickets?sort=%24natural",
        "/tickets?sort=-hash",
        "/tickets?solved=perhaps",
        "/tickets?count=perhaps",
        "/tickets?breached=perhaps",
        "/tickets?view=No%20Name",
        "/tickets/not-a-uuid",
        "/tickets/not-a-uuid/timeline",
        "/tickets/%00",
        f"{T}?version=0",
        f"{T}?version=x",
        f"{T}?as_of=yesterday",
        f"{T}?as_of=0",
        f"{T}?by=somebody",
        f"{T}?color=red",
        f"{T}/timeline?after=-1",
        f"{T}/timeline?after=x",
        f"{T}/timeline?limit=0",
        f"{T}/timeline?as_of=x",
        f"{T}/diff?color=red",
        f"{T}/timeline?color=red",
        f"{T}/diff?from=x&to=1",
        f"{T}/diff?from=1&to=-1",
        "/events?limit=0",
        "/events?limit=x",
        "/events?type=Nothing",
        "/events?type=$ne",
        "/events?since=1",
        "/events/stream?from=x",
        "/dashboard?date=yesterday",
        "/dashboard?date=2026-02-30",
        "/dashboard?date=86400",
        "/dashboard?date=2026-03-05T00:00:00",
        "/dashboard?group=%00",
        "/dashboard?day=2026-01-01",
        "/dashboard/series",
        "/dashboard/series?metric=weather",
        "/agents?week=1",
        "/agents?week=2026-W99",
        "/agents/series",
        "/views?limit=3",
        "/desk?version=x",
        "/desk?version=-1",
        "/webhooks/x",
        f"/webhooks/{NOBODY}/deliveries?status=lost",
        f"/webhooks/{NOBODY}/deliveries?limit=0",
    ):
        yield _get(path)
    for query in (
        "status:broken",
        "priority>=huge",
        "opened:yesterday",
        "tag:A%20tag:%00",
        "field.:x",
    ):
        yield _get(f"/tickets?q={query}", code="bad_query")
    for name in ("opened_from", "updated_before", "resolved_from", "due_before"):
        for time in ("yesterday", "1", "2026-13-01T00:00:00Z", "2026-02-30"):
            yield _get(f"/tickets?{name}={time}", code="bad_time")
    for after in ("x", NOBODY, f"{NOBODY}@0", f"{NOBODY}@1.5", f"{NOBODY}@99999999999"):
        for path in ("/tickets", "/dashboard", "/views"):
            yield _get(f"{path}?after={after}", code="bad_after")
    for days in ("from=2026-01-02&to=2026-01-01", "from=0001-01-01&to=9999-01-01"):
        yield _get(f"/dashboard/series?metric=created&{days}", code="bad_range")
    yield _get(f"{T}?version=1&as_of=2026-03-01T00:00:00Z", code="two_pasts")
    yield _get(f"{T}/diff?from=2&to=1", code="bad_range")
    rubbish = ("", "rubbish", "W10", "e30", "%00", "....", "x" * 300)
    for path in ("/tickets", "/events", "/events/stream"):
        for cursor in rubbish:
            yield _get(f"{path}?cursor={cursor}", code="bad_cursor")


def _elsewhere():
    for method, path in (
        ("DELETE", "/tickets"),
        ("PUT", T),
        ("PATCH", T),
        ("DELETE", T),
        ("GET", f"{T}/assign"),
        ("POST", "/events"),
        ("DELETE", "/events"),
        ("POST", "/dashboard"),
        ("DELETE", "/desk"),
        ("TRACE", "/tickets"),
        ("BREW", "/tickets"),
    ):
        yield Bad(method, path, b"", {}, 405, "method_not_allowed")
    for path in (
        "/nothing",
        "/ticket",
        "/tickets/",
        "/nowhere//tickets",
        f"{T}/",
        "/.env",
        "/admin",
        "/%2e%2e/x",
    ):
        yield _get(path, 404, "not_found")
    for path in (f"/tickets/{NOBODY}", f"/tickets/{NOBODY}/timeline"):
        yield _get(path, 404, "ticket_not_found")
    yield _get(f"/webhooks/{NOBODY}", 404, "webhook_not_found")
    yield _get("/views/none", 404, "view_not_found")


def _keys():
    good = {"principal": "carol", "role": "agent"}
    for order in (
        {**good, "principal": ""},
        {**good, "principal": "x" * 201},
        {**good, "principal": "a\x00b"},
        {**good, "principal": {"$ne": 1}},
        {**good, "role": "king"},
        {**good, "role": ["admin"]},
        {**good, "scopes": "read"},
        {**good, "scopes": ["$where"]},
        {**good, "expires_at": "soon"},
        {**good, "expires_at": 4_000_000_000_000},
        {**good, "id": "000000000000000000000000"},
        {**good, "hash": "x"},
    ):
        yield _post("/keys", order)
    yield _post("/keys", {**good, "principal": "timekeeper"}, code="reserved_id")
    yield Bad("DELETE", "/keys/x", b"", {}, 422, "invalid_request")
    yield Bad("DELETE", "/keys/" + "0" * 25, b"", {}, 422, "invalid_request")
    yield Bad("DELETE", "/keys/" + "ab" * 12, b"", {}, 404, "key_not_found")
    for query in ("outcome=all", "limit=0", "limit=201", "principal=", "x=1"):
        yield _get(f"/access_log?{query}")
    yield _get("/access_log?cursor=x", code="bad_cursor")


def _strangers():
    for shown in ("", "Basic YTpi", "Bearer casebook_x", "Bearer a.b.c"):
        yield Bad("GET", "/tickets", b"", {"Authorization": shown}, 401, "unauthenticated")


def _set_up():
    desks: tuple[object, ...] = (
        None,
        _LIST,
        "x",
        {"x": 1},
        {"groups": 1},
        {"fields": [1]},
        {"$set": {}},
    )
    for desk in desks:
        yield _post("/desk", desk, method="PUT")
    for view in (None, _LIST, {"x": 1}, {"filter": 1}, {"filter": {"$where": "1"}}):
        yield _post("/views/mine", view, method="PUT")
    for name in ("No%20Name", "$x", "%00", "x" * 300):
        yield _post(f"/views/{name}", {}, method="PUT")
    for url in (
        "",
        "x",
        "ftp://example.org",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http://user:secret@example.org/",
        "http://example.org/#x",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://a b/",
        "http://example.org/\n",
        "x" * 3000,
        None,
        1,
        {"$ne": 1},
    ):
        yield _post("/webhooks", {"url": url})
    for member, value in {
        "types": ["Nothing"],
        "filter": {"$where": 1},
        "secret": "short",
        "since": "yesterday",
        "x": 1,
    }.items():
        yield _post("/webhooks", {**_WEBHOOK, member: value})
    for asked in ({}, {"ticket_id": "x"}, {"ticket_id": None}, {"ticket_id": NOBODY, "x": 1}):
        yield _post("/projections/repairs", asked)
    yield _post("/projections/repairs", {"ticket_id": NOBODY}, 404, "ticket_not_found")


ALL = [
    *_keys(),
    *_strangers(),
    *_unreadable(),
    *_mistyped(),
    *_misshapen(),
    *_misvalued(),
    *_refused(),
    *_bulk(),
    *_headers(),
    *_queries(),
    *_elsewhere(),
    *_set_up(),
]
