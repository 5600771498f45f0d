"""Quotas of what is bounded: nobody takes all there is, and what one has taken is not another's.

A process serves so many streams, holds so many bytes of bodies, and so on. Each bound is shared by
all who ask, and each principal has at most a part of it, with however many keys.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    def __init__(self, what: str, most: int, each: int, full: type[Exception]) -> None:
        """`what`: what it is, for the error of a caller who would have more than `each`; `full`:
        the error where all together would have more than `most`.
        """
        self.what, self._most, self._each, self._full = what, most, each, full
        self.taken = 0
        self._by: Counter[str] = Counter()

    @contextmanager
    def hold(self, whose: str, amount: int = 1) -> Iterator[None]:
        """Have some while the block lasts. Raises as `take` does."""
        self.take(whose, amount)
        try:
            yield
        finally:
            self.give_back(whose, amount)

    def take(self, whose: str, amount: int) -> None:
        """Take some, until `give_back`. Raises QuotaExceeded, and what `full` is."""
        if self._by.get(whose, 0) + amount > self._each:
            raise QuotaExceeded(self.what)
        if self.taken + amount > self._most:
            raise self._full
        self.taken += amount
        self._by[whose] += amount

    def give_back(self, whose: str, amount: int) -> None:
        """Give back what was taken, or a part of it."""
        self.taken -= amount
        self._by[whose] -= amount
        if not self._by[whose]:
            del self._by[whose]
