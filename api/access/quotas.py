"""Quotas of what is bounded: nobody takes all there is, and what one has taken is not another's.

A process serves so many streams, holds so many bytes of bodies, and so on. Each bound is shared by
all who ask, and each principal has at most a part of it, with however many keys.
"""

from collections import Counter
from contextlib import suppress
from ipaddress import ip_network

from domain.errors import CasebookError

_NETWORK_BITS = 64


def network_of(address: str | None) -> str:
    """Return whose share an address has: of IPv6, its network's, of which one has all addresses."""
    with suppress(ValueError):
        if address is not None and ":" in address:
            return str(ip_network((address, _NETWORK_BITS), strict=False))
    return str(address)


class QuotaExceeded(CasebookError):
    """One principal has as much at once as is theirs: for example a client that leaks streams."""

    kind = "too_many"
    retry_after_seconds = 1

    def __init__(self, what: str) -> None:
        super().__init__("share_taken", f"{what} are as many as one principal may have at once")


class Quotas:
    """How much of something is taken: in all, and by whom."""

    def __init__(self, what: str) -> None:
        """`what`: what it is, for the error of a caller who has too much of it."""
        self._what = what
        self.taken = 0
        self._by: Counter[str] = Counter()

    def take(self, whose: str, amount: int, *, most: int, each: int) -> bool:
        """Take some, until `give_back`. Return False if there is not so much left of `most`.

        Raises QuotaExceeded if it would be more than `each` of theirs.
        """
        if self._by.get(whose, 0) + amount > each:
            raise QuotaExceeded(self._what)
        if self.taken + amount > most:
            return False
        self.taken += amount
        self._by[whose] += amount
        return True

    def give_back(self, whose: str, amount: int) -> None:
        """Give back what was taken, or a part of it."""
        self.taken -= amount
        self._by[whose] -= amount
        if not self._by[whose]:
            del self._by[whose]
