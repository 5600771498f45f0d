"""Where the log goes: standard error, as text for people at a terminal, as JSON for all else."""

import logging
import re
import sys
from contextlib import suppress
from io import StringIO
from typing import TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from api.settings import Settings, SettingsError

_REPLY = re.compile(r", full error: \{.*\}")
"""What a driver adds to its errors: the database's whole reply, signature and all."""


def log_to_stderr() -> None:
    """Set up logging for this process."""
    form = None
    with suppress(SettingsError):  # the command itself reports it
        form = Settings.from_environment().log_format
    as_text = form == "text" or (form is None and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # No tracebacks with local variables: they hold keys, secrets and what people have written.
    exceptions = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    rendering: list[Processor] = [
        structlog.processors.ExceptionRenderer(exceptions),
        _without_replies,
        structlog.processors.JSONRenderer(),
    ]
    if as_text:
        rendering = [
            structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=_plain_traceback)
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[meta, *rendering]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if as_text:  # the command says by itself that it serves
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    for chatty in ("pymongo", "httpx", "httpcore"):  # they would log webhooks' addresses
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _plain_traceback(out: TextIO, error: ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, error)
    out.write(_REPLY.sub("", text.getvalue()))


def _without_replies(_logger: object, _name: str, event: EventDict) -> EventDict:
    return {key: _without_reply(value) for key, value in event.items()}


def _without_reply(value: object) -> object:
    match value:
        case str():
            return _REPLY.sub("", value)
        case dict():
            return {key: _without_reply(each) for key, each in value.items()}
        case list():
            return [_without_reply(each) for each in value]
        case _:
            return value
