"""Serve the API, with a projector in the same process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.app import create_app
from api.settings import Settings
from scripts.console import database, run, screen


async def main() -> int:
    settings = Settings.from_environment()
    async with database(settings, attach=False) as db:
        if settings.mongodb_url is None:
            screen.print(
                f"Embedded database in {settings.data_dir.resolve()}: for trying, developing and "
                "small single-machine use.\nIn production, name a MongoDB replica set in "
                "CASEBOOK_MONGODB_URL.",
                highlight=False,
                soft_wrap=True,
            )
        config = uvicorn.Config(
            create_app(db), host=settings.host, port=settings.port, log_config=None
        )
        screen.print(
            f"Casebook: http://{settings.host}:{settings.port}/docs",
            highlight=False,
            soft_wrap=True,
        )
        await _serve(_Server(config))
    return 0


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they end the whole command, of which this server is a part."""
        yield


async def _serve(server: uvicorn.Server) -> None:
    """Serve until cancelled; then let requests end, and the application stop in good order."""
    serving = asyncio.create_task(server.serve())
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise


if __name__ == "__main__":
    run(main)
