"""Who is let in where: keys, tokens, the table of routes and roles, limits, and their record."""

import asyncio
import hashlib
import json
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pymongo.errors import AutoReconnect

from api.access import authentication as gate
from api.access import tokens
from api.access.access_log import AccessLog
from api.access.authentication import Access
from api.access.keys import KeyOrder, Keys, keep_in_file
from api.access.principals import Unauthenticated
from api.access.rights import OPEN_PATHS, RIGHTS
from api.access.scopes import ROLES, SCOPES
from api.access.tokens import Tokens, TokensUnusable
from api.app import create_app
from api.people.erasure import ErasureWorker
from api.settings import Issuer, Settings, SettingsError
from domain.tickets import COMMANDS
from eventstore.event_document import utc_now
from eventstore.log import EventStore
from scripts.demo import PEOPLE
from scripts.openapi import document
from tests.api.test_api import OPEN, asking, client, is_problem, refusing
from tests.callers import ADMIN, AGENT, AUDITOR, EVERYBODY, ISSUER, access, as_, token
from tests.processes import environment, script
from tests.projecting import until

__all__ = ["client", "refusing"]

ROUTES = [
    f"{method.upper()} {path}"
    for path, methods in json.loads(document())["paths"].items()
    for method in methods
]
LETTERS = {"requester": "R", "agent": "A", "supervisor": "S", "auditor": "U", "admin": "D"}


def order(role="agent", **more):
    return KeyOrder(principal="carol", role=role, **more)


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


# --- the table ------------------------------------------------------------------------------------

OF_EVERYONE = ("reply", "reopen", "close", "attach", "rate", "follow", "unfollow")
# Said a second time, apart from the table: R requester, A agent, S supervisor, U auditor, D admin.
EXPECTED = {
    **{f"POST /tickets/{{ticket_id}}/{verb}": "AS" for verb in COMMANDS if verb != "open"},
    **{f"POST /bulk/{verb}": "AS" for verb in COMMANDS if verb != "open"},
    "POST /tickets": "RAS",
    **{f"POST /tickets/{{ticket_id}}/{verb}": "RAS" for verb in OF_EVERYONE},
    **{f"POST /bulk/{verb}": "RAS" for verb in OF_EVERYONE},
    "POST /tickets/{ticket_id}/redact": "S",
    "POST /bulk/redact": "S",
    "GET /me": "RASUD",
    "GET /tickets": "RASU",
    "GET /tickets/{ticket_id}": "RASU",
    "GET /tickets/{ticket_id}/timeline": "RASU",
    "GET /tickets/{ticket_id}/commands": "RASU",
    "GET /tickets/{ticket_id}/sla": "ASU",
    "GET /tickets/{ticket_id}/diff": "RASU",
    "GET /events": "SU",
    "GET /events/stream": "SU",
    "GET /dashboard": "ASU",
    "GET /dashboard/series": "ASU",
    "GET /views": "ASU",
    "GET /views/{name}": "ASU",
    "PUT /views/{name}": "S",
    "DELETE /views/{name}": "S",
    "GET /agents": "SU",
    "GET /agents/series": "SU",
    "GET /webhooks": "SU",
    "POST /webhooks": "S",
    "GET /webhooks/{webhook_id}": "SU",
    "PUT /webhooks/{webhook_id}": "S",
    "DELETE /webhooks/{webhook_id}": "S",
    "GET /webhooks/{webhook_id}/deliveries": "SU",
    "POST /webhooks/{webhook_id}/resume": "S",
    "POST /webhooks/{webhook_id}/redeliver": "S",
    "GET /desk": "ASUD",
    "PUT /desk": "D",
    "GET /projections": "SUD",
    "POST /projections/repairs": "D",
    "GET /metrics": "SUD",
    "POST /sign_in": "",  # for the codes of links alone
    "POST /keys": "D",
    "GET /keys": "D",
    "DELETE /keys/{key_id}": "D",
    "GET /access_log": "UD",
    "GET /persons": "D",
    "POST /persons/find": "D",
    "GET /persons/{person_id}": "D",
    "GET /persons/{person_id}/data": "D",
    "POST /persons/{person_id}/erase": "D",
    "GET /healthz": "RASUD",
    "GET /readyz": "RASUD",
}


def test_every_route_is_in_the_table_and_the_table_has_no_other(database):
    assert set(ROUTES) == set(EXPECTED)
    app = create_app(database, EventStore(database))
    served = {getattr(route, "path", "") for route in app.routes} - {""}
    assert served - {route.partition(" ")[2] for route in ROUTES} <= OPEN_PATHS
    by_path = {route for route in ROUTES if route.partition(" ")[2] not in OPEN_PATHS}
    assert by_path == set(RIGHTS)


async def ask(client, route, headers):
    """Ask for a route, with nothing in it; a stream is asked for and left."""
    method, _, path = route.partition(" ")
    for name in ("ticket_id", "webhook_id", "person_id"):
        path = path.replace(f"{{{name}}}", "0192f0c4-0000-7000-8000-000000000001")
    path = path.replace("{name}", "x").replace("{key_id}", "0" * 24)
    if path == "/events/stream":
        path += "?cursor=x"  # or it would never end
    content = b"" if method in ("GET", "DELETE") else b"{}"
    kind = {"Content-Type": "application/json"} if content else {}
    return await client.request(method, path, content=content, headers={**kind, **headers})


@pytest.mark.parametrize(("role", "headers"), [*zip(ROLES, EVERYBODY, strict=True)], ids=ROLES)
async def test_each_cell_of_the_table_is_as_it_says(client, role, headers):
    """Every route for every role: refused for all that are not named; let in, whatever then."""
    wrong = []
    for route in ROUTES:
        answer = await ask(client, route, headers)
        if answer.status_code == 503 and route == "DELETE /webhooks/{webhook_id}":
            # A write that finds nothing makes its collection on the embedded server, which may find
            # no file of it in that moment.
            answer = await ask(client, route, headers)
        if LETTERS[role] not in EXPECTED[route]:
            is_problem(answer, 403, "forbidden")
            continue
        ready = answer.status_code == 503 and route == "GET /readyz"  # or not yet
        if not ready and answer.status_code not in (200, 201, 204, 404, 422):
            wrong.append((route, answer.status_code, answer.text))
    assert wrong == []


async def test_a_stranger_gets_nothing(database, store, monkeypatch):
    monkeypatch.setattr(gate, "_FAILURES", "1000/second")
    monkeypatch.setattr(gate, "_LOOKED_UP", "1000/second")
    async with asking(create_app(database, store, access=access(database))) as client:
        for route in [*ROUTES, "GET /nothing", "POST /me", "BREW /tickets"]:
            answer = await ask(client, route, {"Authorization": ""})
            if route.partition(" ")[2] in OPEN_PATHS:
                assert answer.status_code in (200, 503)
                continue
            is_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == 'Bearer realm="casebook"'


async def test_a_route_that_is_not_in_the_table_is_nobodys(database, store):
    app = create_app(database, store, access=access(database))

    @app.get("/forgotten")
    async def forgotten() -> dict[str, str]:
        return {}

    async with asking(app) as client:
        for headers in EVERYBODY:
            is_problem(await client.get("/forgotten", headers=headers), 403, "forbidden")


async def test_a_key_is_good_for_its_scopes_alone(client, database):
    keys = Keys(database)
    for route, right in RIGHTS.items():
        if "supervisor" not in right.roles or right.scope in ("keys", "sign_in"):
            continue
        if right.scope is None:  # for every key, whatever it is good for
            for scope in SCOPES:
                _, any_key = await keys.make(order("supervisor", scopes=[scope]), "x")
                assert (await ask(client, route, bearer(any_key))).status_code == 200, (
                    route,
                    scope,
                )
            continue
        _, narrow = await keys.make(order("supervisor", scopes=[right.scope]), "x")
        others = [scope for scope in SCOPES if scope != right.scope]
        _, wide = await keys.make(order("supervisor", scopes=others), "x")
        assert (await ask(client, route, bearer(narrow))).status_code != 403, route
        is_problem(await ask(client, route, bearer(wide)), 403, "forbidden")


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_is_made_used_and_revoked(client, database):
    asked = {"principal": "carol", "role": "agent", "scopes": ["read"]}
    made = await client.post("/keys", json=asked, headers=ADMIN)
    assert made.status_code == 201
    key = made.json()
    assert made.headers["location"] == f"/keys/{key['id']}"
    assert (key["principal"], key["role"], key["created_by"]) == ("carol", "agent", "ada")
    shown = bearer(key["key"])
    assert (await client.get("/tickets", headers=shown)).status_code == 200
    is_problem(await client.post("/tickets", json=OPEN, headers=shown), 403, "forbidden")
    [kept] = (await client.get("/keys", headers=ADMIN)).json()["keys"]
    assert kept == {name: value for name, value in key.items() if name != "key"}
    revoked = await client.delete(f"/keys/{key['id']}", headers=ADMIN)
    assert revoked.status_code == 204
    problem = is_problem(await client.get("/tickets", headers=shown), 401, "unauthenticated")
    assert problem["detail"] == "the key has been revoked"

    async def recorded():
        page = await client.get("/access_log?principal=carol&outcome=unknown", headers=ADMIN)
        return [r for r in page.json()["records"] if r["principal"]["key"] == key["id"]]

    assert (await until(recorded))[0]["principal"]["id"] == "carol"  # it is proven whose it was
    assert (await client.delete(f"/keys/{key['id']}", headers=ADMIN)).status_code == 204
    is_problem(await client.delete(f"/keys/{'ab' * 12}", headers=ADMIN), 404, "key_not_found")


async def test_only_the_hash_of_a_secret_is_kept(database):
    _, text = await Keys(database).make(order(), "x")
    secret = text.rpartition("_")[2]
    assert len(bytes.fromhex(secret)) == 32
    [document] = await database.collection("api_keys").find().to_list()
    assert document["hash"] == hashlib.sha256(secret.encode()).digest()
    assert secret not in str(document)


async def test_no_other_text_is_a_key(database):
    keys = Keys(database)
    _, text = await keys.make(order(), "x")
    assert (await keys.principal(text)).id == "carol"
    for n in range(len(text)):
        other = text[:n] + ("0" if text[n] != "0" else "1") + text[n + 1 :]
        with pytest.raises(Unauthenticated):
            await keys.principal(other)
    for other in ("", text[:-1], text + "0", text.upper(), f" {text}", text.replace("_", "-")):
        with pytest.raises(Unauthenticated):
            await keys.principal(other)


async def test_a_key_expires_and_is_revoked_by_another_process(database, monkeypatch):
    now = utc_now()
    keys = Keys(database, lambda: now)
    _, text = await keys.make(order(expires_at=now + timedelta(days=1)), "x")
    await keys.principal(text)
    now += timedelta(days=2)
    with pytest.raises(Unauthenticated, match="expired"):
        await keys.principal(text)
    key, text = await keys.make(order(), "x")
    await keys.principal(text)
    await Keys(database).revoke(key.id)
    await keys.principal(text)  # for some seconds
    monkeypatch.setattr("api.access.keys.KEPT_SECONDS", 0.0)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.principal(text)


async def test_the_first_key_is_made_once(database, tmp_path):
    path = tmp_path / "admin-key"
    made = await asyncio.gather(*(Keys(database).make_first(path) for _ in range(5)))
    [(text, kept)] = [one for one in made if one is not None]
    assert [one.read_text() for one in tmp_path.iterdir()] == [kept.read_text()] == [f"{text}\n"]
    principal = await Keys(database).principal(text)
    assert principal.role == "admin"
    await Keys(database).revoke(principal.key or "")
    assert await Keys(database).make_first(path) is None


async def test_a_first_key_that_cannot_be_kept_is_not_made(database, tmp_path):
    """Nobody could ever use it, and no later start would make another."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        await Keys(database).make_first(tmp_path / "file" / "admin-key")
    assert (await Keys(database).all_apart())[0] == []
    assert await Keys(database).make_first(tmp_path / "admin-key") is not None


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"principal": "timekeeper", "role": "agent"}, "reserved_id"),
        (
            {"principal": "x", "role": "agent", "expires_at": "2020-01-01T00:00:00Z"},
            "expires_at_past",
        ),
        ({"principal": " ", "role": "agent"}, "invalid_request"),
        ({"principal": "x", "role": "king"}, "invalid_request"),
        ({"principal": "x", "role": "agent", "scopes": []}, "invalid_request"),
        ({"principal": "x", "role": "agent", "scopes": ["all"]}, "invalid_request"),
        ({"principal": "x"}, "invalid_request"),
    ],
)
async def test_keys_that_make_no_sense_are_not_made(refusing, shared_database, asked, code):
    is_problem(await refusing.post("/keys", json=asked, headers=ADMIN), 422, code)
    assert (await Keys(shared_database).all_apart())[0] == []


def test_a_key_in_a_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "new" / "admin-key"
    assert keep_in_file("one", path, "desk") == path
    assert path.read_text() == "one\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_key_is_written_over_another(tmp_path):
    """The one that is there may be the only key of another database."""
    path = tmp_path / "admin-key"
    names = [keep_in_file(str(n), path, "the/desk").name for n in range(4)]
    assert names == ["admin-key", "admin-key-the_desk", "admin-key-the_desk-2", names[3]]
    assert [(tmp_path / name).read_text() for name in names] == ["0\n", "1\n", "2\n", "3\n"]
    assert len(list(tmp_path.iterdir())) == 4


async def test_a_server_and_the_demo_on_another_database_leave_the_keys_that_are_there(
    tmp_path, database
):
    folder = tmp_path / "data"
    folder.mkdir()
    theirs = ("admin-key", *(f"demo-{person.role}-key" for person in PEOPLE))
    for name in theirs:
        (folder / name).write_text("the only key of another database\n")
    env = {**environment(tmp_path), "CASEBOOK_MONGODB_URL": database.url}
    env["CASEBOOK_MASTER_KEY"] = os.environ["CASEBOOK_MASTER_KEY"]
    served = await script("scripts.serve", env=env)
    assert served.stdout is not None
    made = [(await served.stdout.readline()).decode() for _ in range(2)]
    served.terminate()
    await served.communicate()
    named = folder / f"admin-key-{database.name}"
    assert f"Made {named}, an administrator's key, which makes others.\n" in made
    for _ in range(2):  # the second finds the key of the first
        demo = await script("scripts.demo", env=env)
        out, err = await demo.communicate()
        assert (demo.returncode, err) == (0, b"")
        assert f"$(cat {folder}/demo-supervisor-key-{database.name})" in out.decode()
    keys = Keys(database)
    assert (await keys.principal(named.read_text().strip())).role == "admin"
    for person in PEOPLE:
        file = folder / f"demo-{person.role}-key-{database.name}"
        principal = await keys.principal(file.read_text().strip())
        assert (principal.id, principal.role) == person
    for name in theirs:
        assert (folder / name).read_text() == "the only key of another database\n"
    assert {p.name for p in folder.glob("*-key*")} == {
        *(*theirs, *(f"{name}-{database.name}" for name in theirs))
    } | {p.name for p in folder.glob("signing-key*")}


async def test_keys_are_made_listed_and_revoked_at_the_command_line(tmp_path):
    env = environment(tmp_path)

    async def keys(*words):
        ran = await script("scripts.keys", *words, env=env)
        out, err = await ran.communicate()
        return ran.returncode, out.decode(), err.decode()

    code, out, _ = await keys("make", "carol", "agent", "--scope", "read", "--days", "2")
    assert code == 0
    key = out.strip()
    assert key.startswith("casebook_")
    id_ = key.split("_")[1]
    code, out, _ = await keys("list")
    assert (code, "carol" in out, id_ in out, key in out) == (0, True, True, False)
    code, out, _ = await keys("revoke", id_)
    assert (code, out) == (0, f"revoked {id_}; good for nothing within five seconds\n")
    for words in (
        ("revoke", "ab" * 12),
        ("make", " ", "agent"),
        ("make", "timekeeper", "agent"),
        ("make", "x", "agent", "--days", "0"),
    ):
        code, out, err = await keys(*words)
        assert (code, out) == (2 if "--days" in words else 1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1


# --- tokens ---------------------------------------------------------------------------------------


def pem_of(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


RSA, EC, ED = rsa_key(65537, 2048), ec_key(SECP256R1()), Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


def unsigned(algorithm):
    """A token that says that it needs no signature, and has none."""
    head = jwt.utils.base64url_encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    return b".".join((head, token().split(".")[1].encode(), b"")).decode()


NOT_GOOD = {
    "unsigned": unsigned("none"),
    "unsigned, in another case": unsigned("None"),
    "without the signature": unsigned("EdDSA"),
    "none by the library": token(key=None, algorithm="none"),
    "another's signature": token(key=OTHER),
    "another's audience": token(aud="another"),
    "no audience": token(aud=None),
    "others' audiences": token(aud=["another", "third"]),
    "another issuer": token(iss="https://else.test"),
    "no issuer": token(iss=None),
    "expired": token(exp=int(time.time()) - 60),
    "for ever": token(exp=None),
    "a word for a time": token(exp="soon"),
    "not yet good": token(nbf=4_000_000_000),
    "nobody's": token(sub=None),
    "a blank id": token(sub=" "),
    "the server's id": token(sub="timekeeper"),
    "an id with a blank": token(sub="alice "),
    "a number for an id": token(sub=7),
    "no role": token(role=None),
    "a role of the log's": token(role="system"),
    "roles": token(role=["admin"]),
    "by RSA": token(key=RSA, algorithm="RS256"),
    "by EC": token(key=EC, algorithm="ES256"),
    "cut off": token()[:-4],
    "with more": token() + "x",
    "too long": token(padding="x" * 10_000),
    "three parts": "x.y.z",
    "dots": "....",
    "a beginning": "eyJ",
}


@pytest.mark.parametrize("name", NOT_GOOD)
async def test_a_token_that_is_not_good_is_nobodys(client, name):
    answer = await client.get("/tickets", headers=bearer(NOT_GOOD[name]))
    is_problem(answer, 401, "unauthenticated")


async def test_a_public_key_signs_nothing(database):
    """HS256 with the public key as its secret: what is known to everybody proves nothing."""
    for key in (RSA, EC, ED):
        pem = pem_of(key)
        checked = Tokens(ISSUER._replace(keys=pem.decode()))
        head = {"alg": "HS256", "typ": "JWT"}
        head_and_claims = b".".join(
            (
                jwt.utils.base64url_encode(json.dumps(head).encode()),
                token().split(".")[1].encode(),
            )
        )
        hs256 = jwt.get_algorithm_by_name("HS256")
        signature = hs256.sign(head_and_claims, pem)
        forged = b".".join((head_and_claims, jwt.utils.base64url_encode(signature))).decode()
        with pytest.raises(Unauthenticated):
            await checked.principal(forged)


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")], ids=["rsa", "ec", "ed"]
)
async def test_good_tokens_are_taken_by_a_public_key(key, algorithm):
    checked = Tokens(ISSUER._replace(keys=pem_of(key).decode()))
    for _ in range(2):  # the second time it is known
        who = await checked.principal(token(key=key, algorithm=algorithm, sub="carol"))
        assert (who.id, who.role, who.key) == ("carol", "agent", None)


async def test_a_token_is_not_taken_beyond_its_time(monkeypatch):
    """Nor one that has been checked before: it is kept no longer than it is good."""
    now = utc_now()
    checked = Tokens(ISSUER, lambda: now)
    until = int(now.timestamp())
    shown = token(exp=until)
    now = datetime.fromtimestamp(until - 5, UTC)
    await checked.principal(shown)
    assert checked.is_kept(shown)
    monkeypatch.setattr(tokens, "_LEEWAY_SECONDS", 0)
    await checked.principal(shown)  # not checked again
    now += timedelta(seconds=6)
    with pytest.raises(Unauthenticated):
        await checked.principal(shown)
    with pytest.raises(Unauthenticated):
        await Tokens(ISSUER).principal(token(exp=int(time.time()) - 40))
    for claim in ("nbf", "iat"):
        early = token(**{claim: int(now.timestamp()) + 40})
        with pytest.raises(Unauthenticated, match="not valid yet"):
            await Tokens(ISSUER, lambda: now).principal(early)


async def test_a_token_without_its_set_of_keys_is_told_to_wait(client, tmp_path, database):
    """It may be good: whose fault it is that nobody knows is not the client's."""
    place = tmp_path / "jwks.json"
    issuer = Issuer("jwks", str(place), ISSUER.issuer, ISSUER.audience)
    by = Access(database, Tokens(issuer))
    async with asking(create_app(database, EventStore(database), access=by)) as one:
        shown = bearer(token(key=ED, headers={"kid": "d"}))
        is_problem(await one.get("/tickets", headers=shown), 503, "tokens_uncheckable")


@pytest.mark.parametrize("place", ["http://id.test/jwks", "ftp://id.test/jwks", "https:///x"])
def test_keys_are_read_from_where_nobody_can_exchange_them(place):
    with pytest.raises(TokensUnusable):
        Tokens(ISSUER._replace(kind="jwks", keys=place))


def jwk(key, kid, **more):
    algorithm = {RSA: "RS256", EC: "ES256", ED: "EdDSA", OTHER: "EdDSA"}[key]
    told = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    return {**told, "kid": kid, **more}


async def test_tokens_are_checked_by_a_set_of_keys(tmp_path, monkeypatch):
    place = tmp_path / "jwks.json"
    secret = {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "s"}
    keys = [jwk(RSA, "r"), jwk(EC, "e"), jwk(OTHER, "enc", use="enc"), secret]
    place.write_text(json.dumps({"keys": keys}))
    checked = Tokens(Issuer("jwks", str(place), ISSUER.issuer, ISSUER.audience))
    for key, kid, algorithm in ((RSA, "r", "RS256"), (EC, "e", "ES256")):
        await checked.principal(token(key=key, algorithm=algorithm, headers={"kid": kid}))
    for bad in (
        token(key=RSA, algorithm="RS256", headers={"kid": "e"}),
        token(key=RSA, algorithm="RS256", headers={"kid": "unknown"}),
        token(key=RSA, algorithm="RS256"),
        token(key=OTHER, headers={"kid": "enc"}),
        token(key="secret" * 6, algorithm="HS256", headers={"kid": "s"}),
        token(key=ED, headers={"kid": "d"}),
    ):
        with pytest.raises(Unauthenticated):
            await checked.principal(bad)
    # Keys are exchanged: a new one is looked for, but not again and again.
    place.write_text(json.dumps({"keys": [jwk(ED, "d")]}))
    with pytest.raises(Unauthenticated):
        await checked.principal(token(key=ED, headers={"kid": "d"}))
    monkeypatch.setattr(tokens, "_READ_AGAIN_SECONDS", 0.0)
    await checked.principal(token(key=ED, headers={"kid": "d"}))
    place.unlink()  # what is known stays
    with pytest.raises(Unauthenticated):
        await checked.principal(token(key=RSA, algorithm="RS256", headers={"kid": "gone"}))
    await checked.principal(token(key=ED, sub="carol", headers={"kid": "d"}))


async def test_a_set_of_keys_is_fetched_once_for_many(monkeypatch):
    asked = 0

    async def answer(reader, writer):
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"keys": [jwk(ED, "d")]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        place = f"http://127.0.0.1:{port}/jwks.json"
        checked = Tokens(Issuer("jwks", place, ISSUER.issuer, ISSUER.audience))
        shown = [token(key=ED, sub=f"a{n}", headers={"kid": "d"}) for n in range(20)]
        unknown = [token(key=ED, sub=f"a{n}", headers={"kid": f"{n}"}) for n in range(20)]
        await asyncio.gather(*map(checked.principal, shown))
        found = await asyncio.gather(*map(checked.principal, unknown), return_exceptions=True)
    assert all(isinstance(one, Unauthenticated) for one in found)
    assert asked == 1


@pytest.mark.parametrize(
    "keys", ["", "x", "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"]
)
def test_what_is_no_public_key_is_said_at_the_start(keys):
    with pytest.raises(TokensUnusable):
        Tokens(ISSUER._replace(keys=keys))


def test_settings_of_tokens_are_whole_or_refused(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(pem_of(ED))
    whole = {
        "CASEBOOK_JWT_KEY": str(path),
        "CASEBOOK_JWT_ISSUER": "i",
        "CASEBOOK_JWT_AUDIENCE": "a",
    }
    issuer = Settings.from_environment(whole).issuer()
    assert issuer == Issuer("pem", path.read_text(), "i", "a")
    assert Settings.from_environment({}).issuer() is None
    jwks = {"CASEBOOK_JWKS": "https://id.test/jwks"}
    by_set = {n: v for n, v in whole.items() if n != "CASEBOOK_JWT_KEY"} | jwks
    assert Settings.from_environment(by_set).issuer() == Issuer(
        "jwks", "https://id.test/jwks", "i", "a"
    )
    for wrong in (
        {"CASEBOOK_JWT_KEY": str(path)},
        {**whole, **jwks},
        {**whole, "CASEBOOK_JWT_KEY": str(tmp_path / "nowhere")},
    ):
        with pytest.raises(SettingsError):
            Settings.from_environment(wrong).issuer()


# --- limits and the record ------------------------------------------------------------------------


async def test_who_asks_too_often_is_put_off(database, store):
    app = create_app(database, store, access=access(database, limit="5/minute"))
    async with asking(app) as client:
        answers = [await client.get("/tickets", headers=AGENT) for _ in range(8)]
        assert [a.status_code for a in answers[:5]] == [200] * 5
        for late in answers[5:]:
            is_problem(late, 429, "too_many_requests")
            assert 1 <= int(late.headers["retry-after"]) <= 60
        assert (await client.get("/tickets", headers=AUDITOR)).status_code == 200
        assert (await client.get("/healthz")).status_code == 200


async def test_who_shows_what_nobody_has_is_put_off_sooner(database, store):
    app = create_app(database, store, access=access(database))
    async with asking(app) as client:
        assert (await client.get("/tickets", headers=AGENT)).status_code == 200
        wrong = bearer(f"casebook_{'0' * 24}_{'0' * 64}")
        answers = [await client.get("/tickets", headers=wrong) for _ in range(30)]
        assert {a.status_code for a in answers} == {401, 429}
        assert (await client.get("/tickets", headers=AGENT)).status_code == 200  # is known


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", "Basic YTpi", "casebook_x", "Bearer casebook_x", "Bearer a b"],
)
async def test_what_is_no_bearer_is_told_what_to_send(database, store, shown):
    app = create_app(database, store, access=Access(database))
    async with asking(app) as client:
        answer = await client.get("/tickets", headers={"Authorization": shown})
        problem = is_problem(answer, 401, "unauthenticated")
        assert "Bearer" in problem["detail"] or "casebook_<id>_<secret>" in problem["detail"]


async def test_nothing_of_a_strangers_request_is_read(client):
    body = b"{" * 5_000_000
    answer = await client.post("/tickets", content=body, headers={"Authorization": "Bearer x"})
    is_problem(answer, 401, "unauthenticated")


async def test_failed_and_sensitive_accesses_are_on_record(client, database):
    sam = as_("supervisor", "sam")
    ticket = (await client.post("/tickets", json=OPEN)).json()["ticket_id"]
    asked = [
        ("GET", "/events?limit=1", sam),
        ("PUT", "/desk", ADMIN),
        ("GET", "/tickets", ADMIN),
        ("GET", f"/tickets/{ticket}", as_("requester", "eve")),
        ("POST", "/bulk/reply", as_("requester", "eve")),
        ("GET", "/tickets", {"Authorization": "Bearer x"}),
        ("GET", f"/tickets/{ticket}", AGENT),  # as usual: no record
    ]
    for method, path, headers in asked:
        body = {"tickets": [ticket], "command": {"body": "x"}} if path == "/bulk/reply" else {}
        content = json.dumps(body).encode() if method != "GET" else b""
        kind = {"Content-Type": "application/json", "Correlation-Id": path}
        await client.request(method, path, content=content, headers={**headers, **kind})

    async def recorded():
        return await database.collection("access_log").count_documents({}) == 6

    await until(recorded)  # nobody waits for a failed access to be on record
    answer = await client.get("/access_log?limit=3", headers=AUDITOR)
    first = answer.json()
    rest = (
        await client.get("/access_log", params={"cursor": first["next"]}, headers=AUDITOR)
    ).json()
    records = [*first["records"], *rest["records"]]
    records.sort(key=lambda record: record["at"], reverse=True)
    told = [(r["outcome"], r["principal"] and r["principal"]["id"], r["route"]) for r in records]
    assert told == [
        ("granted", "audrey", "/access_log"),
        ("unknown", None, None),
        ("unseen", "eve", "/bulk/{verb}".replace("{verb}", "reply")),
        ("unseen", "eve", "/tickets/{ticket_id}"),
        ("denied", "ada", "/tickets"),
        ("granted", "ada", "/desk"),
        ("granted", "sam", "/events"),
    ]
    assert records[3]["path"] == f"/tickets/{ticket}"
    assert records[3]["correlation_id"] == f"/tickets/{ticket}"
    eves = await client.get("/access_log?principal=eve&outcome=unseen", headers=ADMIN)
    assert [r["outcome"] for r in eves.json()["records"]] == ["unseen", "unseen"]
    is_problem(await client.get("/access_log?cursor=x", headers=ADMIN), 422, "bad_cursor")


async def principals(log, name=None):
    found: Any = (await log.page(name, None, None, 9))[0]
    return [record["principal"] for record in found]


async def test_records_name_persons_by_id_alone(client, database):
    """So an erasure has nothing to look for among them; the vault has the names."""
    await client.get("/dashboard", headers=as_("requester", "eve"))
    records, log = database.collection("access_log"), AccessLog(database)

    async def recorded():
        return await records.find_one({"outcome": "denied"})

    record = await until(recorded)
    assert "eve" not in str(record)
    # As a former version wrote it.
    await records.update_one({}, {"$set": {"principal.id": "eve"}, "$unset": {"person": ""}})
    assert await principals(log) == [{"id": "eve", "role": "requester", "key": None}]
    await log.replace_names()
    assert await records.find_one({"outcome": "denied"}) == record
    assert await principals(log, "eve") == [{"id": "eve", "role": "requester", "key": None}]
    assert (await log.page("adam", None, None, 1)) == ([], None)


async def test_records_of_erased_persons_name_nobody(client, database, store):
    """Also those of former versions, out of a backup from before."""
    records, log = database.collection("access_log"), AccessLog(database)
    old = {"at": utc_now(), "outcome": "denied", "method": "GET", "path": "/keys", "route": None}
    old |= {"principal": {"id": "eve", "role": "requester"}, "address": None}
    await records.insert_one({"_id": uuid4(), **old, "correlation_id": "of eve"})
    await log.replace_names()
    assert [who["id"] for who in await principals(log, "eve")] == ["eve"]
    person = (await client.post("/persons/find", json={"name": "eve"}, headers=ADMIN)).json()["id"]
    await records.insert_one({"_id": uuid4(), **old, "correlation_id": "of eve"})
    await client.post(f"/persons/{person}/erase", json={"reason": "asked"}, headers=ADMIN)
    assert "eve" not in str(await records.find().to_list())
    await records.insert_one({"_id": uuid4(), **old, "correlation_id": "of eve"})
    await ErasureWorker(database, store).reconcile()
    assert "eve" not in str(await records.find().to_list())
    assert await log.page("eve", None, None, 1) == ([], None)
    shown = sorted(who["id"] for who in await principals(log))
    assert shown == ["[erased]", "[erased]", "[erased]", "ada", "ada"]


class Silent:
    """A collection of a database that does not answer."""

    async def insert_one(self, _):
        raise AutoReconnect


async def test_what_cannot_be_recorded_is_not_given(database):
    """The record comes first: no export behind the auditors' back."""
    by = access(database)
    groups = {"groups": {"print": ["alice"]}}
    async with asking(create_app(database, EventStore(database), access=by)) as client:
        await client.put("/desk", json=groups, headers=ADMIN)
        by.log._records = Silent()
        is_problem(await client.get("/events"), 503, "store_unavailable")
        is_problem(await client.put("/desk", json={}, headers=ADMIN), 503, "store_unavailable")
        assert (await client.get("/tickets")).status_code == 200
        assert (await client.get("/desk")).json()["desk"]["groups"] == groups["groups"]
        is_problem(await client.get("/tickets", headers=ADMIN), 403, "forbidden")  # all the same
        await by.log.written()


async def test_others_reach_the_server_only_if_that_is_meant(tmp_path):
    env = {**environment(tmp_path), "CASEBOOK_HOST": "0.0.0.0"}  # noqa: S104 refused
    served = await script("scripts.serve", env=env)
    out, err = await served.communicate()
    assert (served.returncode, out) == (1, b"")
    assert b"CASEBOOK_BEYOND_LOOPBACK=yes" in err
    assert not (tmp_path / "data").exists()


async def test_a_key_makes_no_key_that_is_good_for_more(client, database):
    _, narrow = await Keys(database).make(order("admin", scopes=["keys"]), "x")
    wanted = {"principal": "x", "role": "supervisor"}
    for scopes in (list(SCOPES), ["feed"], ["keys", "read"]):
        answer = await client.post(
            "/keys", json={**wanted, "scopes": scopes}, headers=bearer(narrow)
        )
        is_problem(answer, 403, "forbidden")
    is_problem(await client.post("/keys", json=wanted, headers=bearer(narrow)), 403, "forbidden")
    made = await client.post("/keys", json={**wanted, "scopes": ["keys"]}, headers=bearer(narrow))
    assert made.status_code == 201


async def test_nobody_takes_all_there_is(database, store, monkeypatch):
    monkeypatch.setattr(gate, "AT_ONCE", 3)
    allowed = access(database)
    async with asking(create_app(database, store, access=allowed)) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"].rpartition("/")[2]
        slow = {**AGENT, "Prefer": "wait=2"}
        waiting = [
            asyncio.create_task(client.get(f"/tickets?after={path}@2", headers=slow))
            for _ in range(3)
        ]

        async def all_are_there():
            return sum(allowed._under_way.values()) == 3

        await until(all_are_there)
        is_problem(await client.get("/tickets", headers=AGENT), 429, "too_many_requests")
        assert (await client.get("/tickets", headers=AUDITOR)).status_code == 200
        assert {(await task).status_code for task in waiting} == {412}
        assert (await client.get("/tickets", headers=AGENT)).status_code == 200
