"""Several collections written to at once, by either driver."""

import asyncio
import os
import traceback
from asyncio.subprocess import PIPE, STDOUT
from contextlib import asynccontextmanager

import dns.resolver
import pytest
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import DuplicateKeyError, NetworkTimeout, OperationFailure

from api.settings import Settings
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.mongo import driver
from eventstore.mongo.driver import DatabaseAddressError, DatabaseStandsAlone, DatabaseTooOld
from eventstore.mongo.embedded_server import program
from eventstore.mongo.ephemeral_certificate import ephemeral_certificate
from eventstore.mongo.transaction import to_its_end
from projections.generations import Generations, prepare
from scripts import cli
from scripts.cli import DatabaseSilent
from scripts.testbed.patience import patience
from scripts.testbed.wire import Done, Fate, Refused, through
from tests.failing import failing


@pytest.fixture
async def written(any_database):
    """A database with a document in each of two collections; their names as writes name them."""
    both = [any_database.collection(name) for name in ("ones", "others")]
    for collection in both:
        await collection.insert_one({"_id": 1, "n": 0})
    return any_database, *(collection.full_name for collection in both)


async def contents(database):
    return [
        {d["_id"]: d.get("n") async for d in database.collection(name).find()}
        for name in ("ones", "others")
    ]


async def test_what_finds_or_makes_its_document_is_counted(written):
    database, ones, others = written
    writes = [
        InsertOne({"_id": 2, "n": 2}, namespace=ones),
        UpdateOne({"_id": 1, "n": 0}, {"$inc": {"n": 1}}, namespace=ones),
        UpdateOne({"_id": 3}, {"$inc": {"n": 3}}, upsert=True, namespace=others),
        ReplaceOne({"_id": 1, "n": 0}, {"n": 7}, namespace=others),
    ]
    assert await database.write(writes) == 4
    assert await contents(database) == [{1: 1, 2: 2}, {1: 7, 3: 3}]
    missing = [
        ReplaceOne({"_id": 1, "n": 0}, {"n": 8}, namespace=ones),
        UpdateOne({"_id": 9}, {"$inc": {"n": 1}}, namespace=others),
        DeleteOne({"_id": 3, "n": 4}, namespace=others),
        DeleteOne({"_id": 3, "n": 3}, namespace=others),
    ]
    assert await database.write(missing) == 1
    assert await contents(database) == [{1: 1, 2: 2}, {1: 7}]
    assert await database.write([]) == 0


async def test_a_document_that_is_there_is_a_duplicate(written):
    """L2: as of a single write, and nothing of a transaction is left."""
    database, ones, others = written

    async def work(session):
        assert await database.collection("ones").find_one({"_id": 1}, session=session)
        insert = InsertOne({"_id": 1}, namespace=ones)
        change = UpdateOne({"_id": 1}, {"$inc": {"n": 1}}, namespace=others)
        await database.write([change, insert], session)

    with pytest.raises(DuplicateKeyError):
        await database.in_transaction(work)
    assert await contents(database) == [{1: 0}, {1: 0}]


async def test_what_is_changed_by_another_is_changed_again(written):
    """L7: of two transactions that want the same document one is done first, and one again."""
    database, ones, others = written
    tries = 0
    both_have_read = asyncio.Barrier(2)

    async def work(session):
        nonlocal tries
        tries += 1
        found = await database.collection("ones").find_one({"_id": 1}, session=session)
        if tries <= 2:
            await both_have_read.wait()
        more = {"$set": {"n": found["n"] + 1}}
        writes = [UpdateOne({"_id": 1}, more, namespace=name) for name in (ones, others)]
        assert await database.write(writes, session) == 2

    await asyncio.gather(*(database.in_transaction(work) for _ in range(2)))
    assert tries > 2
    assert await contents(database) == [{1: 2}, {1: 2}]


async def test_what_cannot_be_written_is_said(written):
    database, ones, _ = written
    with pytest.raises(OperationFailure) as refused:
        await database.write([UpdateOne({"_id": 1}, {"$push": {"n": 1}}, namespace=ones)])
    assert refused.value.code == 2
    assert "must be an array" in str(refused.value)


async def test_an_error_tells_nothing_of_what_was_to_be_written(written):
    """For what a projector fails of is shown to operators, and logged."""
    database, ones, _ = written
    secret = {"_id": 1, "preview": "private words"}
    for write in (
        InsertOne(secret, namespace=ones),
        UpdateOne({"_id": 1}, {"$set": secret, "$push": {"n": 1}}, namespace=ones),
    ):
        with pytest.raises(OperationFailure) as refused:
            await database.write([write])
        told = "".join(traceback.format_exception(refused.value)) + str(refused.value.details)
        assert "private" not in told


async def test_a_database_that_cannot_do_this_is_refused_at_the_start(
    server_url, tmp_path, monkeypatch
):
    settings = Settings(mongodb_url=server_url, data_dir=tmp_path)
    async with cli.database(settings):
        pass
    monkeypatch.setattr(driver, "_OLDEST_WIRE_VERSION", 1_000)
    with pytest.raises(DatabaseTooOld, match=r"version 8\.0 or later"):
        async with cli.database(settings):
            pass


@pytest.mark.parametrize("code", [59, 115])
async def test_a_server_that_still_behaves_as_an_older_one_is_refused(any_database, code):
    """As after an upgrade whose feature compatibility version has not been set yet."""
    async with failing(any_database, "bulkWrite", errorCode=code):
        with pytest.raises(DatabaseTooOld, match="feature compatibility"):
            await any_database.check()
    await any_database.check()


async def test_who_may_write_nothing_is_let_in(any_database):
    """As an auditor, who only reads."""
    async with failing(any_database, "bulkWrite", errorCode=13):
        await any_database.check()


@pytest.mark.parametrize(
    "option",
    [
        "readPreference=secondary",
        "readpreference=primaryPreferred",
        "readPreferenceTags=dc:east",
        "maxStalenessSeconds=120",
        "readConcernLevel=local",
        "w=1",
        "w=0",
        "journal=false",
    ],
)
@pytest.mark.parametrize("name", ["motor", "pymongo"])
def test_an_address_that_asks_for_other_reads_or_promises_is_refused(option, name):
    """L3, L9: what is acknowledged is durable, and what is read is what was acknowledged."""
    with pytest.raises(DatabaseAddressError, match=f"it asks for {option}, and Casebook needs"):
        Database(f"mongodb://one,two/casebook?replicaSet=rs&{option}", name)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mongodb://[::1/casebook", "Invalid IPv6 URL"),
        ("mongodb://host/casebook.events", "a database's name has no dot$"),
        ("mongodb://user:sec/ret@127.0.0.1/casebook", "a database's name has no dot$"),
        ("mongodb://host/?tls=yes", "The value of tls must be 'true' or 'false'"),
        ("mongodb+srv://host/?authMechanism=none", "authmechanism must be in"),
        ("mongodb://host/?replicaset=rs&retryWrite=true", "Unknown option: retrywrite"),
    ],
)
@pytest.mark.parametrize("name", ["motor", "pymongo"])
def test_an_address_that_would_be_taken_for_another_is_refused(url, told, name):
    """The driver warns of an option that it does not understand, and goes on, as without TLS."""
    with pytest.raises(DatabaseAddressError, match=f"cannot use the database URL: {told}"):
        Database(url, name)


@pytest.mark.parametrize("name", ["motor", "pymongo"])
@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
async def test_an_address_as_a_cloud_gives_it_is_taken(scheme, name):
    options = "retryWrites=true&w=majority&readPreference=primary&appName=Cluster0"
    taken = Database(f"{scheme}://user:pass@cluster0.example.invalid/casebook?{options}", name)
    assert taken.name == "casebook"
    await taken.close()


@pytest.mark.parametrize("name", ["motor", "pymongo"])
async def test_an_address_that_leads_to_no_servers_is_told(name, monkeypatch):
    def nothing(*_args, **_kwargs):
        raise dns.resolver.NXDOMAIN

    monkeypatch.setattr("pymongo.synchronous.srv_resolver._resolve", nothing)
    monkeypatch.setattr("pymongo.asynchronous.srv_resolver._resolve", nothing)
    unknown = Database("mongodb+srv://cluster0.example.invalid/casebook", name)
    with pytest.raises(DatabaseAddressError, match="cannot use the database URL"):
        await unknown.check()
    await unknown.close()


@asynccontextmanager
async def server(folder, *options):
    """A server of its own, started with other options than the embedded one. Gives its port."""
    (folder / "empty.toml").touch()
    command = [program(), "--config", folder / "empty.toml", "--storage-path", folder / "files"]
    process = await asyncio.create_subprocess_exec(
        *command, "--port", "0", *options, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    try:
        while b"listening on" not in (line := await process.stdout.readline()):
            assert line
        yield int(line.rpartition(b":")[2])
    finally:
        process.terminate()
        await process.communicate()


async def test_a_server_of_another_replica_set_is_told_in_a_line(server_url):
    option = "&replicaSet=other" if "?" in server_url else "/?replicaSet=other"
    with pytest.raises(DatabaseSilent) as refused:
        async with cli.database(Settings(mongodb_url=f"{server_url}{option}")):
            pass
    assert 'replica set name "other"' in str(refused.value)


async def test_a_server_that_stands_alone_is_refused(tmp_path):
    async with server(tmp_path, "--standalone") as port:
        alone = Database(f"mongodb://127.0.0.1:{port}/")
        with pytest.raises(DatabaseStandsAlone, match="a replica set"):
            await alone.check()
        await alone.close()


@pytest.mark.parametrize("name", ["motor", "pymongo"])
async def test_a_server_is_spoken_to_in_secret_and_must_prove_who_it_is(tmp_path, name):
    """TLS, by the options of the address."""
    ours, another = tmp_path / "ours", tmp_path / "another"
    for certificate in (ours, another):
        ephemeral_certificate(certificate)
    files = [f"--tls-cert-file={ours}", f"--tls-key-file={ours}"]
    async with server(tmp_path, *files) as port:
        for trusted in (ours, another):
            settings = Settings(
                mongodb_url=f"mongodb://127.0.0.1:{port}/?tls=true&tlsCAFile={trusted}",
                mongo_driver=name,
            )
            if trusted == ours:
                async with cli.database(settings) as database:
                    await database.collection("things").insert_one({"_id": 1})
            else:
                with pytest.raises(DatabaseSilent, match="certificate verify failed"):
                    async with cli.database(settings):
                        pass


async def test_a_transaction_that_fails_again_and_again_is_given_up(any_database, monkeypatch):
    """After some tries, and not only when the drivers' two minutes are over."""
    monkeypatch.setattr("eventstore.mongo.driver.TRANSACTION_SECONDS", patience(0.3))
    tries = 0

    async def work(session):
        nonlocal tries
        tries += 1
        await any_database.collection("things").insert_one({"_id": tries}, session=session)
        await asyncio.sleep(0.05)
        raise OperationFailure("busy", 112, {"errorLabels": ["TransientTransactionError"]})

    with pytest.raises(NetworkTimeout, match="busy"):
        await any_database.in_transaction(work)
    assert tries > 1
    assert await any_database.collection("things").find_one({}) is None


async def test_a_transaction_comes_to_its_end_however_often_its_task_is_cancelled():
    """Cut off in the middle, it would leave its locks behind."""
    may_end, ended = asyncio.Event(), asyncio.Event()

    async def transaction():
        await may_end.wait()
        ended.set()

    task = asyncio.create_task(to_its_end(transaction()))
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_what_is_known_of_the_server_is_shared_by_all_that_rename(database):
    """Views are read by a renamed database for each request; none of them asks the server again."""
    known = await database.is_embedded()
    again = database.renaming({})
    again.client = None
    assert await again.is_embedded() is known
    kept = database.keeping_session()
    assert await kept.renaming({}).session_id() == await kept.session_id()
    await kept.end_session()


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="one host only")
@pytest.mark.parametrize("refused", [False, True])
async def test_on_a_cluster_read_documents_are_spread_while_there_are_none(
    any_database, caplog, refused
):
    """A replay makes new ones each time: else they would be on one shard. And without the right to
    spread them, they are.
    """
    asked: list[tuple[object, object]] = []

    def heard(sent: JsonObject) -> Fate | Done | Refused:
        if "shardCollection" in sent:
            asked.append((sent["shardCollection"], sent["key"]))
            no = {"ok": 0, "code": 13, "codeName": "Unauthorized", "errmsg": "no"}
            return Refused(no if refused else {"ok": 1})
        is_ours = "hello" in sent and "maxTimeMS" in sent
        return Done({"msg": "isdbgrid"}) if is_ours else Fate.PASSED

    async with through(any_database.url, heard) as (url, _):
        database = Database(url, any_database.driver)
        views = (await Generations(database).prepare()).of(database)
        await views.collection("ticket_reads").insert_one({"_id": 1})
        await prepare(views)  # as each projector does when it begins
        await database.close()
    assert asked == [(f"{any_database.name}_views.ticket_reads_1", {"_id": "hashed"})]
    assert ("stays on one shard" in caplog.text) is refused
