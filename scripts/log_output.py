"""Where the log goes: standard error, as text for people at a terminal, as JSON for all else."""

import logging
import re
import sys
from contextlib import suppress

import structlog
from structlog.typing import Processor

from api.settings import Settings, SettingsError

_REPLY = re.compile(r", full error: \{.*\}")
"""What a driver adds to its errors: the database's whole reply, signature and all; and what may
stand behind it in the same line.
"""
_REPLY_IN_JSON = re.compile(r', full error: \{(?:[^"\\]|\\.)*\}')
"""The same inside a string of JSON, which ends with the first quote that is not escaped."""


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Leaves out the database's replies."""

    reply = _REPLY_IN_JSON

    def format(self, record: logging.LogRecord) -> str:
        return self.reply.sub("", super().format(record))


class _TextFormatter(_Formatter):
    reply = _REPLY


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
        structlog.processors.JSONRenderer(),
    ]
    if as_text:
        rendering = [
            structlog.dev.ConsoleRenderer(
                pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    kind = _TextFormatter if as_text else _Formatter
    formatter = kind(foreign_pre_chain=shared, processors=[meta, *rendering])
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if as_text:  # the command says by itself that it serves
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    for chatty in ("pymongo", "httpx", "httpcore"):  # they would log webhooks' addresses
        logging.getLogger(chatty).setLevel(logging.WARNING)
