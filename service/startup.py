"""The checks and log lines of the start: the key, the limits of the machine, odd settings, and where the relay listens."""

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import structlog

from service import machine
from service.loop import NAME
from service.realtime.names import reached_locally, url_host
from service.relay.continuity.pool import ContinuityOptions
from service.settings import Settings
from service.telemetry.records import RecordWriter
from service.upstream import key_lint
from service.upstream.key_lint import KeyRefusal
from service.upstream.target import Target
from service.version import __version__


def explain_listen_error(exc: OSError, variable: str, host: str, port: int) -> str:
    """Why the relay cannot listen on an address, and what to do. `variable` is RELAY_PORT or RELAY_INTERNAL_PORT."""
    why, remedy = os.strerror(exc.errno or 0), "Check the address"
    match exc.errno:
        case errno.EADDRINUSE:
            user = machine.listener_on(port)
            stop = (
                f"Stop process {user.pid}" if user is not None else f"Find the process with 'ss -ltnp sport = :{port}'"
            )
            why += f" by process {user.pid} ({user.name})" if user is not None else " by a process of another user"
            remedy = f"{stop}, or set {variable} to another port"
        case errno.EACCES:
            remedy = f"Set {variable} to a port from 1024 on; lower ones need the capability CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            why = "no network interface of this machine or container has this address"
            remedy = f"Set {variable.replace('PORT', 'HOST')} to an address that 'ip addr' lists"
        case _ if isinstance(exc, socket.gaierror | TimeoutError):
            why = "the name cannot be resolved" + (" in time" if isinstance(exc, TimeoutError) else "")
            remedy = f"Set {variable.replace('PORT', 'HOST')} to an address, such as 127.0.0.1"
    return f"{variable}: cannot listen on {host} port {port}: {why}. {remedy}."


def listen_problem(variable: str, host: str, port: int) -> str | None:
    """Why a relay could not listen on an address now, as its start reports it; None if it could."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the relay does
                listener.bind(address)
    except OSError as exc:
        return explain_listen_error(exc, variable, host, port)
    return None


def report_simulator(unread_keys: Sequence[str]) -> None:
    """Warn that the simulator answers in place of OpenAI. `unread_keys` states where a key is set but not read, and why."""
    log = structlog.get_logger()
    if unread_keys:
        log.error(
            "simulator.stands_in",
            message=f"SIMULATOR, not OpenAI: a key is set but not read. {'; '.join(unread_keys)}.",
            remedy="Correct this and restart the relay, or set RELAY_UPSTREAM=simulator to use the simulator.",
        )
        return
    log.warning(
        "simulator.stands_in",
        message="No key was found: the built-in simulator answers in place of OpenAI. "
        "Set OPENAI_API_KEY to connect to OpenAI.",
    )


def check_key(target: Target, settings: Settings) -> KeyRefusal | None:
    """Log the provider key and its problems; why no dial can succeed, or None."""
    return key_lint.check_key(
        target, origin=settings.origins.get("OPENAI_API_KEY"), read_problem=settings.openai_api_key_problem
    )


def sessions_that_fit(settings: Settings, continuity: ContinuityOptions) -> int:
    """RELAY_MAX_SESSIONS, or fewer where the limits of the machine allow fewer; logs why.

    Where every session keeps its conversation, the memory for that is not there for further sessions.
    """
    reserved_bytes = continuity.max_bytes if continuity.mode == "renew" else 0
    limit = machine.session_limit(settings.max_sessions, reserved_bytes)
    if limit is None:
        return settings.max_sessions
    structlog.get_logger().warning(
        "limit.lowered",
        message=f"The limit on {limit.resource_name} allows {limit.sessions} sessions, fewer than RELAY_MAX_SESSIONS.",
        remedy=limit.remedy,
        max_sessions=limit.sessions,
        wanted=settings.max_sessions,
    )
    return limit.sessions


def report_settings(settings: Settings) -> None:
    """Log what is odd about the settings: first of all, because it can be the cause why the start then fails."""
    log = structlog.get_logger()
    for warning in settings.warnings:
        log.warning("setting.odd", variable=warning.variable, message=warning.sentence)
    if settings.access == "open" and settings.open_anywhere:
        log.warning(
            "access.open_anywhere",
            message="Access is open beyond loopback: any client that reaches the port can spend the provider's credit.",
            remedy="Set RELAY_ACCESS=tokens and RELAY_CLIENT_TOKENS, unless this is intended.",
        )


def report_start(settings: Settings, target: Target, *, public_port: int, internal_port: int) -> None:
    """Log where the relay listens and which upstream it uses."""
    allowed = settings.allowed_models
    model = settings.model if settings.model in allowed or not allowed else allowed[0]  # an example that is not refused
    host, internal_host = (url_host(reached_locally(host)) for host in (settings.host, settings.internal_host))
    structlog.get_logger().info(
        "service.started",
        version=__version__,
        loop=NAME,
        url=f"ws://{host}:{public_port}/v1/realtime?model={model}",
        health=f"http://{internal_host}:{internal_port}/healthz?verbose",
        **({"talk_page": f"http://{host}:{public_port}/"} if settings.console == "on" else {}),
        operator_page=f"http://{internal_host}:{internal_port}/",
        upstream=target.label,
        access=settings.access,
        settings=settings.summary(),
    )


def explain_records_error(target: str | Path, exc: OSError) -> tuple[str, str]:
    """Why records cannot be written to the target of RELAY_RECORDS, and what to do."""
    cause = os.strerror(exc.errno) if exc.errno else type(exc).__name__
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR:
            cause = "its folder is missing"
            remedy = "Create the folder of RELAY_RECORDS. No restart is needed."
        case errno.EISDIR | errno.ENXIO:
            cause = "it is not a regular file"
            remedy = "Set RELAY_RECORDS to the path of a regular file and restart the relay."
        case errno.EACCES | errno.EPERM:
            remedy = (
                f"Let user id {os.geteuid()} write to the file of RELAY_RECORDS and its folder. No restart is needed."
            )
        case errno.EROFS:
            remedy = (
                "Mount a volume at the folder of RELAY_RECORDS, or set RELAY_RECORDS=stdout, and restart the relay."
            )
        case errno.ENOSPC | errno.EDQUOT:
            remedy = "Free space on the disk of RELAY_RECORDS. No restart is needed."
        case _ if target == "stdout":
            remedy = "Start the relay with a standard output that is read, or set RELAY_RECORDS to the path of a file."
        case _:
            remedy = "Check the file of RELAY_RECORDS and its file system."
    return f"Records of sessions cannot be written: {cause}.", remedy


def records_notes(records: RecordWriter | None) -> list[str]:
    """A line of detailed health while records cannot be written."""
    if records is None or records.error is None:
        return []
    return [f"RELAY_RECORDS: {' '.join(explain_records_error(records.target, records.error))}"]


def report_records(target: str | Path, error: OSError | None) -> None:
    """Log that records cannot be written, or are written again."""
    log = structlog.get_logger()
    if error is None:
        log.info("records.recovered", message="Records of sessions are written again.", path=str(target))
        return
    cause, remedy = explain_records_error(target, error)
    log.error(
        "records.lost",
        message=f"{cause} Calls go on; their records are lost.",
        remedy=remedy,
        path=str(target),
    )
