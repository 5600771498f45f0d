"""Tokens of an identity provider: which are believed, by which keys."""

import base64
import json
import warnings

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from api.access.principals import Unauthenticated
from api.access.tokens import Tokens, TokensUncheckable, TokensUnusable
from api.settings import Issuer
from tests import callers
from tests.api.test_access import EC, ED, RSA, bearer, jwk, pem_of
from tests.api.test_api import client, is_problem
from tests.callers import ISSUER, token

__all__ = ["client"]


async def by_set(tmp_path, text):
    place = tmp_path / "jwks.json"
    place.write_text(text)
    return Tokens(Issuer("jwks", str(place), ISSUER.issuer, ISSUER.audience))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"keys":' * 50_000,
        '{"keys":[{"kid":' + "[" * 100_000 + "]" * 100_000 + "}]}",
        '{"keys": [' + '{"kid": "x"},' * 100 + '{"kid": "y"}]}',
        '{"keys": [' + " " * 2**20 + "]}",
        '{"keys": {"kid": "x"}}',
        '{"keys": ["x"]}',
        "[]",
        "",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
async def test_a_set_of_keys_that_is_none_is_told_and_stops_nothing(tmp_path, caplog, text):
    """However deep it is nested, and however much it holds."""
    checked = await by_set(tmp_path, text)
    with pytest.raises(TokensUncheckable):
        await checked.principal(token(key=ED, headers={"kid": "d"}))
    assert "the JWK Set at" in caplog.text


def described(key):
    return json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(key.public_key()))


async def test_a_key_that_cannot_be_used_costs_only_itself(tmp_path, caplog):
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505
    many = rsa.generate_private_key(3, 2048)
    bad = [
        {**jwk(RSA, "r"), "n": 5},
        {**jwk(RSA, "r"), "n": None},
        {**jwk(RSA, "r"), "e": []},
        {**jwk(RSA, "r"), "e": "Ag"},
        {**jwk(RSA, "r"), "e": "AQ"},
        {**jwk(EC, "r"), "x": "AA"},
        {"kid": "r", "kty": ["RSA"]},
        {"kid": "r", "kty": {}},
        {"kid": "r"},
        {**jwk(RSA, "r"), "alg": ["RS256"]},
        {**jwk(RSA, "r"), "kid": ["r"]},
        {**described(weak), "kid": "r"},
        {**described(many), "kid": "r"},
        {**jwk(RSA, "r"), "x5c": [[[["x"]]]], "n": {"a": [1]}},
    ]
    for each in bad:
        checked = await by_set(tmp_path, json.dumps({"keys": [each, jwk(ED, "d")]}))
        await checked.principal(token(key=ED, headers={"kid": "d"}))
        for key in (RSA, weak, many):
            with warnings.catch_warnings(action="ignore"):  # of the library, on signing
                shown = token(key=key, algorithm="RS256", headers={"kid": "r"})
            with pytest.raises(Unauthenticated, match="not known here"):
                await checked.principal(shown)


@pytest.mark.parametrize(("exponent", "bits"), [(65537, 1024), (65537, 2047), (3, 2048)])
def test_a_weak_public_key_is_refused_at_the_start(exponent, bits):
    weak = pem_of(rsa.generate_private_key(exponent, bits)).decode()
    with pytest.raises(TokensUnusable, match="an RSA key"):
        Tokens(ISSUER._replace(keys=weak))


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"])
async def test_access_tokens_are_taken_by_their_type(typ):
    checked = Tokens(ISSUER)
    assert (await checked.principal(token(headers={"typ": typ}))).id == "alice"


@pytest.mark.parametrize(
    "typ",
    ["dpop+jwt", "logout+jwt", "id_token", "secevent+jwt", "JWE", "", "at+jwt2", 5, ["JWT"], {}],
)
async def test_what_else_an_issuer_signs_is_no_access_token(typ):
    checked = Tokens(ISSUER)
    with pytest.raises(Unauthenticated):
        await checked.principal(token_with_header({"alg": "EdDSA", "typ": typ}))


def token_with_header(header):
    """A token whose header is anything that can be signed."""
    text = header if isinstance(header, str) else json.dumps(header)
    head = base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    payload = token().split(".")[1].encode()
    signed = base64.urlsafe_b64encode(callers._KEY.sign(head + b"." + payload)).rstrip(b"=")
    return b".".join((head, payload, signed)).decode()


async def test_a_token_nested_deep_is_a_token_that_is_not_good(client):
    """L12: nothing that a stranger sends is a 500."""
    for header in (
        "[" * 5000,
        '{"alg":"EdDSA","x":' + "[" * 5000 + "]" * 5000 + "}",
        '{"a":' * 900,
    ):
        with pytest.raises(Unauthenticated):
            await Tokens(ISSUER).principal(token_with_header(header)[:8000])
        answer = await client.get("/tickets", headers=bearer(token_with_header(header)))
        is_problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize("exp", [True, "2100", 10**400, [], {"a": 1}, -1])
async def test_a_token_whose_end_is_no_time_is_not_good(exp):
    with pytest.raises(Unauthenticated):
        await Tokens(ISSUER).principal(token(exp=exp))
