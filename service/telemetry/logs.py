"""Logs: structlog events, `noun.past_verb`, JSON in a container, coloured on a terminal.

Two INFO lines per session; nothing per frame. Never keys, tokens, audio, transcripts, instructions or queries. What the
standard library's loggers say (asyncio, aiohttp) goes the same way, through the same redaction. A relay writes them off its
event loop (`log_writer.py`).
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog
from aiohttp.http import HttpProcessingError
from structlog.typing import Processor

from service.telemetry.log_writer import LogWriter
from service.telemetry.redact import Redactor

# aiohttp logs a client's whole subprotocol list at WARNING (web_ws.py:317 in 3.14.5), and tokens travel in it.
_SILENCED = ("aiohttp.access", "aiohttp.websocket")


def configure(
    log_format: Literal["auto", "json", "console"],
    level: str,
    redactor: Redactor,
    stream: TextIO | LogWriter | None = None,
) -> None:
    """Set logging up for the process; safe to call again."""
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redactor, _order]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, *last, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(
            cast("TextIO", out)
        ),  # one write for each line, as LogWriter wants it
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _name_foreign],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, renderer],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    for name in _SILENCED:
        logging.getLogger(name).disabled = True
    server = logging.getLogger("aiohttp.server")
    server.removeFilter(_without_requests)
    server.addFilter(_without_requests)


def _without_requests(record: logging.LogRecord) -> bool:
    """A request that cannot be parsed is a stranger's, and its lines may hold tokens: only the kind of mistake is kept."""
    exc = record.exc_info[1] if record.exc_info else None
    if isinstance(exc, HttpProcessingError):
        record.msg, record.args, record.exc_info, record.exc_text = f"bad request: {type(exc).__name__}", (), None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _order(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When, how grave and what first, for whoever reads a line with the eye."""
    first = {name: event[name] for name in ("timestamp", "level", "event") if name in event}
    return first | {name: value for name, value in event.items() if name not in first}


def _name_foreign(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A line of another library is an event of its own kind, with the library's words as its message."""
    record = event.get("_record")
    event["message"] = str(event["event"])[:2000]
    event["event"] = "library.logged"
    event["logger"] = getattr(record, "name", "?")
    return event
