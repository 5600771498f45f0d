"""Keys of single fields of events, each of which can be destroyed alone.

A person has a random root, and below it a tree of secrets: each makes its 16 children by a keyed
hash (BLAKE2b), and no child tells its parent. The way to an event is 12 hexadecimal digits of a
keyed hash of its ticket, and 4 of its version; below the event are its fields, by their paths. This
is the function of Goldreich, Goldwasser and Micali (1986), punctured as by Boneh and Waters (2013).

To destroy the key of a field, each secret on the way to it is replaced by its other children, 15
on each of 16 levels. From what is left all other keys can be made as before, also those of events
to come: who holds a former tree while it writes is in nobody's way.

Pure, but for the random root.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from uuid import UUID

from domain.values import JsonObject

SECRET_BYTES = 32
_DIGITS = "0123456789abcdef"
_WAYS = "ways"
"""The name of the secret that ways are hashed with: so nobody can choose tickets that share one."""


class KeyTree:
    """What is left of a tree: secrets by the ways that lead to them. No way begins another."""

    __slots__ = ("_block", "secrets")

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self.secrets = secrets
        # The last 16 versions of a ticket that were asked for share all but the last digit.
        self._block: tuple[object, str, bytes | None] = (None, "", None)

    @classmethod
    def new(cls) -> "KeyTree":
        """Make a whole one."""
        return cls({name: os.urandom(SECRET_BYTES) for name in ("", _WAYS)})

    @classmethod
    def read(cls, stored: object) -> "KeyTree":
        """Read the stored form. Raises ValueError."""
        match stored:
            case {"steps": [*steps], "secrets": str(text)} if _WAYS in steps:
                secrets = base64.b64decode(text)
                if len(secrets) == SECRET_BYTES * len(steps):
                    starts = range(0, len(secrets), SECRET_BYTES)
                    parts = [secrets[start : start + SECRET_BYTES] for start in starts]
                    return cls(dict(zip(steps, parts, strict=True)))
        raise ValueError("this is no tree of keys")

    def stored(self) -> JsonObject:
        """Return the stored form, as JSON: in one text, which is quickly read."""
        secrets = base64.b64encode(b"".join(self.secrets.values())).decode()
        return {"steps": [*self.secrets], "secrets": secrets}

    def key(self, ticket_id: UUID, version: int, path: str) -> bytes | None:
        """Return the key of a field of an event; None if it was destroyed."""
        block = ticket_id, version >> 4
        at, way, secret = self._block
        if at != block:
            way = self._way(ticket_id, version)[:-1]
            secret = self._below(way)
            self._block = block, way, secret
        digit = _DIGITS[version & 15]
        if secret is not None:
            return _child(_child(secret, digit), path)
        event = self.secrets.get(way + digit)
        return self.secrets.get(way + digit + path) if event is None else _child(event, path)

    def without(
        self, ticket_id: UUID, version: int, gone: Iterable[str], left: Iterable[str]
    ) -> "KeyTree":
        """Return the tree without the keys of some fields of an event. `left`: all its others."""
        secrets = {**self.secrets}
        event = self._way(ticket_id, version)
        for path in gone:
            secrets.pop(event + path, None)
        for depth in range(len(event) + 1):
            if (secret := secrets.pop(event[:depth], None)) is not None:
                for level in range(depth, len(event)):
                    others = _DIGITS.replace(event[level], "")
                    secrets |= {event[:level] + each: _child(secret, each) for each in others}
                    secret = _child(secret, event[level])
                secrets |= {event + path: _child(secret, path) for path in left}
        return KeyTree(secrets)

    def _way(self, ticket_id: UUID, version: int) -> str:
        hashed = _child(self.secrets[_WAYS], f"{ticket_id} {version >> 16}")
        return f"{hashed[:6].hex()}{version & 0xFFFF:04x}"

    def _below(self, way: str) -> bytes | None:
        """Return the secret at a way, if one on it is left."""
        for depth in range(len(way) + 1):
            if (secret := self.secrets.get(way[:depth])) is not None:
                for digit in way[depth:]:
                    secret = _child(secret, digit)
                return secret
        return None


def _child(secret: bytes, step: str) -> bytes:
    return hashlib.blake2b(step.encode(), key=secret, digest_size=SECRET_BYTES).digest()
