"""The 64 partitions of tickets, which consumers of the log can share."""

from collections.abc import Collection, Mapping
from uuid import UUID

PARTITIONS = 64
_BITS = range(120, 126)
"""Where the number stands in the 16 bytes of an id: bit 120 is the lowest of the last byte."""


def partition_of(ticket_id: UUID) -> int:
    """Return a ticket's partition: the last six bits of its id, which are random in all versions.

    Stable for ever: another division would mean another place for every checkpoint.
    """
    return ticket_id.int % PARTITIONS


def in_partitions(field: str, numbers: Collection[int]) -> Mapping[str, object]:
    """Return the query for documents whose `field` is a ticket of some partitions.

    No index serves it: it is for streams, which read everything in any case.
    """
    if len(numbers) == PARTITIONS:
        return {}
    return {"$or": [{field: _bits_of(number)} for number in sorted(numbers)]}


def _bits_of(number: int) -> Mapping[str, object]:
    is_set = [bit for n, bit in enumerate(_BITS) if number >> n & 1]
    is_clear = [bit for n, bit in enumerate(_BITS) if not number >> n & 1]
    # A server may take no empty list of bits.
    return {
        **({"$bitsAllSet": is_set} if is_set else {}),
        **({"$bitsAllClear": is_clear} if is_clear else {}),
    }
