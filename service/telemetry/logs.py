"""Logs: structlog events named `noun.past_verb`, as JSON in a container and as text on a terminal.

Two INFO lines per session, none per frame. A log never holds keys, tokens, audio, transcripts, instructions or query strings.
Records of the standard library's loggers (asyncio, aiohttp) pass the same redaction and renderer as the event
`library.logged`. The relay writes its log outside its event loop (`log_writer.py`).
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog
from aiohttp.http import HttpProcessingError
from structlog.typing import Processor

from service.telemetry.console import ConsoleRenderer
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
    """Configure structlog and the root logger of the process. A second call replaces the first.

    `stream` is standard error by default. With `auto` a terminal gets text (`console.py`), anything else JSON.
    """
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redactor, _order_keys]
    renderer: Processor = ConsoleRenderer(colours=out.isatty()) if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, *last, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # LogWriter expects one write for each event; structlog's PrintLogger makes two.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", out)),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _name_library_record],
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
    server.removeFilter(_hide_request)
    server.addFilter(_hide_request)


def _hide_request(record: logging.LogRecord) -> bool:
    """Reduce the record of a request that cannot be parsed to the kind of error: its lines may hold tokens."""
    exc = record.exc_info[1] if record.exc_info else None
    if isinstance(exc, HttpProcessingError):
        record.msg, record.args, record.exc_info, record.exc_text = f"bad request: {type(exc).__name__}", (), None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


def _order_keys(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put time, level and event name first, where a person reading JSON lines looks for them."""
    first = {name: event[name] for name in ("timestamp", "level", "event") if name in event}
    return first | {name: value for name, value in event.items() if name not in first}


def _name_library_record(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Make a record of another library an event of one name, with the library's text as its message."""
    record = event.get("_record")
    event["message"] = str(event["event"])[:2000]
    event["event"] = "library.logged"
    event["logger"] = getattr(record, "name", "?")
    return event
