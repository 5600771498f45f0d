"""Settings by environment."""

import re
from pathlib import Path

import pytest

from api.settings import Settings, SettingsError, read_rate, variables

ROOT = Path(__file__).parents[2]
OF_TESTS = {"CASEBOOK_REAL_LOGS"}


def test_the_defaults_need_nothing():
    settings = Settings.from_environment({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.data_dir == Path("data")
    assert settings.mongodb_url is None
    assert settings.mongo_driver == "motor"


def test_every_setting_is_a_variable():
    settings = Settings.from_environment(
        {
            "CASEBOOK_HOST": "::1",
            "CASEBOOK_PORT": "9000",
            "CASEBOOK_DATA_DIR": "/srv/casebook",
            "CASEBOOK_MONGODB_URL": "mongodb://db/",
            "CASEBOOK_MONGO_DRIVER": "pymongo",
        }
    )
    assert (settings.host, settings.port) == ("::1", 9000)
    assert settings.data_dir == Path("/srv/casebook")
    assert settings.mongodb_url == "mongodb://db/"
    assert settings.mongo_driver == "pymongo"


def test_an_empty_variable_counts_as_not_set():
    assert Settings.from_environment({"CASEBOOK_MONGODB_URL": " "}).mongodb_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("CASEBOOK_PORT", "eighty"), ("CASEBOOK_PORT", "70000"), ("CASEBOOK_MONGO_DRIVER", "odbc")],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(SettingsError, match=f"{name}='{value}'"):
        Settings.from_environment({name: value})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CASEBOOK_PROT", "; did you mean CASEBOOK_PORT?"),
        ("CASEBOOK_RATE_LIMT", "; did you mean CASEBOOK_RATE_LIMIT?"),
        ("CASEBOOK_BEYOND_LOOPBAK", "; did you mean CASEBOOK_BEYOND_LOOPBACK?"),
        ("CASEBOOK_MASTERKEY_FILE", "; did you mean CASEBOOK_MASTER_KEY_FILE?"),
        ("CASEBOOK_", ""),
        ("CASEBOOK_XYZZY", ""),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest_that_is_known(name, hint):
    with pytest.raises(SettingsError) as told:
        Settings.from_environment({name: "1"})
    assert told.value.detail == f"there is no setting {name}{hint}"


def test_names_that_others_set_are_theirs():
    """Of the tests, of command lines that read their own, of Kubernetes for a Service's sake."""
    theirs = {
        *("CASEBOOK_TEST_MONGODB_URL", "CASEBOOK_TESTS_FOLDER", "CASEBOOK_REAL_LOGS"),
        *("CASEBOOK_ADMIN_URL", "CASEBOOK_MASTER_KEY", "HOME"),
        *("CASEBOOK_SERVICE_HOST", "CASEBOOK_SERVICE_PORT", "CASEBOOK_SERVICE_PORT_HTTP"),
        *("CASEBOOK_PORT_8000_TCP", "CASEBOOK_PORT_8000_TCP_ADDR"),
    }
    assert Settings.from_environment(dict.fromkeys(theirs, "1")) == Settings()
    with pytest.raises(SettingsError, match="Kubernetes"):
        Settings.from_environment({"CASEBOOK_PORT": "tcp://10.0.0.1:8000"})


def test_all_that_is_read_is_known_and_told():
    """A variable that some module reads by its name is one that nobody is told to be misspelt."""
    told = variables()
    assert all(about.endswith(".") for about in told.values()), told
    for room in ("api", "eventstore", "projections", "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            read = re.findall(r"\bCASEBOOK_[A-Z_]*[A-Z]\b", path.read_text())
            assert {each for each in read if "TEST" not in each} - told.keys() <= OF_TESTS, path


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("200/second", (200, 1)),
        ("1000 per minute", (1000, 60)),
        ("5/2hours", (5, 7200)),
        ("7 / 1 Day", (7, 86_400)),
    ],
)
def test_a_rate_limit_is_read(text, rate):
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["", "5", "0/second", "5/0seconds", "5/second;9/hour", "-1/day"])
def test_what_is_no_rate_limit_is_refused(text):
    with pytest.raises(ValueError, match="200/second"):
        read_rate(text)
