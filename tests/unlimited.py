"""Which commands do not say how long the database may work for them."""

from collections.abc import Iterable

from domain.values import JsonObject

_WITHOUT_LIMIT = frozenset(
    {
        "drop",  # it takes none; it is sent again
        "endSessions",
        "getMore",  # of a cursor, which has one
        "hello",  # of the driver, which sees by it whether the server is there
        "isMaster",
        "ismaster",
        "killCursors",
        "saslContinue",  # of the driver, which signs in before it asks
        "saslStart",
    }
)


def unlimited(commands: Iterable[JsonObject]) -> set[str]:
    """Return the names of commands that do not say how long the database may work for them, of all
    that could.
    """
    return {next(iter(c)) for c in commands if "maxTimeMS" not in c} - _WITHOUT_LIMIT
