"""Settings by environment."""

from pathlib import Path

import pytest

from api.settings import Settings, SettingsError


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
