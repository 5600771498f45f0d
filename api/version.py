"""Which version of Casebook this is."""

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Return the version that is installed."""
    try:
        return metadata.version("casebook")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "dev"
