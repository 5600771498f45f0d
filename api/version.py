"""Which version of Casebook this is."""

from importlib import metadata


def version() -> str:
    """Return the version that is installed."""
    try:
        return metadata.version("casebook")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "dev"
