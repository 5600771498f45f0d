"""A connected database, and what one process knows and does of the log that is in it."""

from functools import partial

from eventstore import log_identity
from eventstore.background import Supervisor
from eventstore.documents import Unreadable
from eventstore.log_identity import LogIdentity
from eventstore.mongo.driver import DriverName, MongoDatabase
from eventstore.numbers import COLLECTION as NUMBERS
from eventstore.numbers import Numbers
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.vault import Vault, keys_of


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
        own, keys = self.client[self.name], self.client[keys_of(self.name)]
        scan_keys = partial(self.scan, namespace=keys.name)
        self.vault = Vault(keys, own, self.masters, self.clock.now, self.unreadable, scan_keys)
        """The keys of the persons whose words are in it; they are in a database of their own."""
        self.numbers = Numbers(self.collection(NUMBERS))
        """What its tickets are called by people."""
        self.identity = LogIdentity(own, self.clock.now, self.supervisor)
        """Which log is in it."""
