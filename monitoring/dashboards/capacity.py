"""The second board: how near the limits are, and how the data path does."""

from monitoring.dashboards.board import board
from monitoring.dashboards.panels import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    MESSAGES,
    PER_SECOND,
    RATIO,
    SECONDS,
    WINDOW,
    YES_NO,
    AnyPanel,
    Query,
    number,
    over_time,
    process,
    quantiles,
    rate,
    rate_by,
    series,
)


def render(runbooks: str) -> str:
    """`capacity.json`."""
    return board(
        "capacity",
        "capacity and data path",
        "How near are the limits, and does what is said pass without delay?",
        (*_sessions(), *_process(), *_data_path(), *_trouble()),
        runbooks,
    )


def _sessions() -> tuple[AnyPanel, ...]:
    return (
        number(
            "Sessions of what may be",
            "Open sessions of all chosen instances, as a share of their limit.",
            "below 85 %; at 100 % callers are refused.",
            RATIO,
            Query(f"sum({series('sessions_active')}) / sum({series('sessions_limit')})", "used"),
            steps={0: "green", 0.7: "yellow", 0.85: "red"},
        ),
        number(
            "Instances",
            "Instances that are scraped.",
            "as many as were meant to run; one more during a rollout.",
            COUNT,
            Query(f"count({series('build_info')})", "instances"),
            steps={0: "red", 1: "green"},
        ),
        over_time(
            "Sessions",
            "Open sessions of each instance, and the limit of one.",
            "spread evenly; the limit is the same for all instances.",
            COUNT,
            Query(f"sum by (instance) ({series('sessions_active')})", "{{instance}}"),
            Query(f"min({series('sessions_limit')})", "limit of an instance"),
        ),
        over_time(
            "Connects under way",
            "Connections to the provider being made by each instance, and the limit of one.",
            "a handful; a number near the limit means that the provider is slow.",
            COUNT,
            Query(f"sum by (instance) ({series('dials_active')})", "{{instance}}"),
            Query(f"min({series('dials_limit')})", "limit of an instance"),
        ),
    )


def _process() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "Event loop's lag",
            "How late the event loop runs what is due, by instance and as a whole.",
            "99 % below 20 ms; from 100 ms on speech is delayed audibly.",
            SECONDS,
            *quantiles("event_loop_lag_seconds", 0.99, by="instance"),
            *quantiles("event_loop_lag_seconds", 0.5),
        ),
        over_time(
            "CPU",
            "Share of one core that each instance uses; a relay is one thread.",
            "below 70 %; at 100 % lag follows.",
            RATIO,
            Query(f"sum by (instance) (rate({process('cpu_seconds_total')}[{WINDOW}]))", "{{instance}}"),
        ),
        over_time(
            "Memory",
            "Resident memory of each instance, and the container's limit where there is one.",
            "100 MiB and up to 256 KiB for each session, flat under a constant load.",
            BYTES,
            Query(f"sum by (instance) ({process('resident_memory_bytes')})", "{{instance}}"),
            Query(f"min({series('memory_limit_bytes')} < Inf)", "limit of an instance"),
        ),
        over_time(
            "Open files",
            "Descriptors of each instance as a share of its limit; a session takes two.",
            "below 85 %; above it new connections are cut off unheard.",
            RATIO,
            Query(
                f"sum by (instance) ({process('open_fds')}) / sum by (instance) ({process('max_fds')})", "{{instance}}"
            ),
        ),
    )


def _data_path() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "Messages",
            "Messages that passed, by direction.",
            "10 to 50 a second for each session that speaks.",
            MESSAGES,
            Query(rate_by("direction", "forwarded_messages_total"), "{{direction}}"),
        ),
        over_time(
            "Bytes",
            "Bytes of frames that passed, by direction.",
            "about 64 kB a second for each session that speaks.",
            BYTES_PER_SECOND,
            Query(rate_by("direction", "forwarded_bytes_total"), "{{direction}}"),
        ),
        over_time(
            "Held back",
            (
                "Seconds in each second for which directions were held back, summed over all sessions, because "
                "their receiver did not keep up."
            ),
            "near 0; towards clients some are slow, towards the provider any is a sign of trouble there.",
            SECONDS,
            Query(rate_by("direction", "backpressure_seconds_total"), "{{direction}}"),
        ),
    )


def _trouble() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "Shutting down",
            "Instances that take nobody new.",
            "only during a rollout, for at most RELAY_DRAIN_SECONDS.",
            YES_NO,
            Query(f"max by (instance) ({series('draining')})", "{{instance}}"),
        ),
        over_time(
            "Lost or cut off",
            "Log lines that were dropped, connections that were cut off unheard, background tasks that crashed.",
            "0, all of them.",
            PER_SECOND,
            Query(f"sum({rate('log_lines_dropped_total')})", "log lines dropped"),
            Query(f"sum({rate('connections_turned_away_total')})", "connections turned away"),
            Query(f"sum({rate('background_task_crashes_total')})", "tasks crashed"),
        ),
        over_time(
            "New keys in the key file",
            "Keys that were found in the file of OPENAI_API_KEY_FILE, by what became of them.",
            "empty but when a key is rotated; then taken.",
            COUNT,
            Query(f"sum by (result) (increase({series('key_rotations_total')}[{WINDOW}]))", "{{result}}"),
        ),
    )
