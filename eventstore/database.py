"""A connected database, and what one process knows and does of the log that is in it."""

from collections.abc import Mapping
from functools import partial

from domain.values import JsonObject
from eventstore import log_identity
from eventstore.background import Supervisor
from eventstore.documents import Unreadable
from eventstore.log_identity import LogIdentity
from eventstore.mongo.coalesced_reads import CoalescedReads
from eventstore.mongo.driver import DriverName, MongoDatabase
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.vault import Vault, keys_database
from eventstore.ticket_numbers import COLLECTION as NUMBERS
from eventstore.ticket_numbers import Numbers


class Database(MongoDatabase):
    """The database of a log, with what belongs to it. Bound to the event loop in which it is first
    used.
    """

    readable, writable = log_identity.COLLECTION, log_identity.PROCESSES

    def __init__(
        self, url: str, driver: DriverName = "motor", masters: MasterKeys | None = None
    ) -> None:
        """`masters`: what wraps the keys of persons; what the environment gives unless given here.

        Sends nothing yet. Raises DatabaseAddressError if the URL cannot be read.
        """
        super().__init__(url, driver)
        self.masters = masters or MasterKeys.given()
        self.unreadable = Unreadable()
        """What this process could not read of it."""
        self.supervisor = Supervisor()
        """What does this process's background work."""
        own, keys = self.client[self.name], self.client[keys_database(self.name)]
        scan_keys = partial(self.scan, namespace=keys.name)
        # Shared by all that `renaming` makes of this one.
        self._reads = {self.name: CoalescedReads(own)}
        reads = self._reads[self.name]
        self.vault = Vault(
            keys, own, self.masters, self.clock.now, self.unreadable, scan_keys, reads
        )
        """The keys of the persons whose words are in it; they are in a database of their own."""
        self.numbers = Numbers(self.collection(NUMBERS))
        """What its tickets are called by people."""
        self.identity = LogIdentity(own, self.clock.now, self.supervisor, reads)
        """Which log is in it."""

    async def small(
        self,
        name: str,
        condition: Mapping[str, object] | None = None,
        *,
        order: Mapping[str, int] | None = None,
        limit: int = 0,
        within_seconds: float = 0.0,
    ) -> list[JsonObject]:
        """Return documents of a small collection, together with what else is asked within so many
        seconds (`CoalescedReads.find`).
        """
        namespace, name = self._place(name)
        if namespace not in self._reads:
            self._reads[namespace] = CoalescedReads(self.client[namespace])
        found = self._reads[namespace].find
        return await found(name, condition, order=order, limit=limit, within_seconds=within_seconds)
