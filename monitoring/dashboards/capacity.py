"""The dashboard `capacity`: utilization of the limits, and the state of the data path."""

from monitoring.dashboards.dashboard import render_dashboard
from monitoring.dashboards.panels import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    MESSAGES,
    PER_MINUTE,
    RATIO,
    SECONDS,
    WINDOW,
    YES_NO,
    PanelBuilder,
    Query,
    graph_panel,
    per_minute,
    process,
    quantiles,
    rate_by,
    series,
    stat_panel,
)


def render(docs_url: str) -> str:
    """`capacity.json`."""
    return render_dashboard(
        "capacity",
        "capacity and data path",
        "How close are the limits, and does audio pass without delay?",
        (*_sessions(), *_process(), *_data_path(), *_faults()),
        docs_url,
    )


def _sessions() -> tuple[PanelBuilder, ...]:
    return (
        stat_panel(
            "Session utilization",
            "Open sessions of all selected instances as a share of their limit.",
            "below 85 %; at 100 % the relay refuses clients.",
            RATIO,
            Query(f"sum({series('sessions_active')}) / sum({series('sessions_limit')})", "used"),
            steps={0: "green", 0.7: "yellow", 0.85: "red"},
        ),
        stat_panel(
            "Instances",
            "Instances that Prometheus scrapes.",
            "the configured number of replicas; one more during a rollout.",
            COUNT,
            Query(f"count({series('build_info')})", "instances"),
            steps={0: "red", 1: "green"},
        ),
        graph_panel(
            "Sessions",
            "Open sessions of each instance, and the limit of one instance.",
            "spread evenly; the limit is the same for all instances.",
            COUNT,
            Query(f"sum by (instance) ({series('sessions_active')})", "{{instance}}"),
            Query(f"min({series('sessions_limit')})", "limit per instance"),
        ),
        graph_panel(
            "Dials in progress",
            "Dials to the provider in progress on each instance, and the limit of one instance.",
            "a few; a number near the limit means that the provider is slow.",
            COUNT,
            Query(f"sum by (instance) ({series('dials_active')})", "{{instance}}"),
            Query(f"min({series('dials_limit')})", "limit per instance"),
        ),
    )


def _process() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Event loop lag",
            "Delay of callbacks that are due on the event loop: p99 of each instance, and p50 over all.",
            "p99 below 20 ms; above 100 ms the delay of speech is audible.",
            SECONDS,
            *quantiles("event_loop_lag_seconds", 0.99, by="instance"),
            *quantiles("event_loop_lag_seconds", 0.5),
        ),
        graph_panel(
            "CPU",
            "CPU usage of each instance as a share of one core; the relay is single-threaded.",
            "below 70 %; at 100 % the event loop lags.",
            RATIO,
            Query(f"sum by (instance) (rate({process('cpu_seconds_total')}[{WINDOW}]))", "{{instance}}"),
        ),
        graph_panel(
            "Memory",
            "Resident memory of each instance, and the memory limit of the container if it has one.",
            "100 MiB plus up to 256 KiB for each session; flat under constant load.",
            BYTES,
            Query(f"sum by (instance) ({process('resident_memory_bytes')})", "{{instance}}"),
            Query(f"min({series('memory_limit_bytes')} < Inf)", "limit per instance"),
        ),
        graph_panel(
            "Open files",
            "Open file descriptors of each instance as a share of its limit; a session uses two.",
            "below 85 %; near 100 % the relay closes new connections unanswered.",
            RATIO,
            Query(
                f"sum by (instance) ({process('open_fds')}) / sum by (instance) ({process('max_fds')})", "{{instance}}"
            ),
        ),
    )


def _data_path() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Messages",
            "Messages forwarded, by direction.",
            "10 to 50 per second for each session with speech.",
            MESSAGES,
            Query(rate_by("direction", "forwarded_messages_total"), "{{direction}}"),
        ),
        graph_panel(
            "Bytes",
            "Bytes of frames forwarded, by direction.",
            "about 64 kB per second for each session with speech.",
            BYTES_PER_SECOND,
            Query(rate_by("direction", "forwarded_bytes_total"), "{{direction}}"),
        ),
        graph_panel(
            "Backpressure",
            (
                "Seconds per second for which the relay paused reading because the receiving side was too slow, "
                "summed over all sessions, by direction."
            ),
            "near 0; upstream_to_client rises with slow clients, client_to_upstream indicates a slow provider.",
            SECONDS,
            Query(rate_by("direction", "backpressure_seconds_total"), "{{direction}}"),
        ),
    )


def _faults() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Draining",
            "Instances that are draining and refuse new sessions.",
            "only during a rollout, for at most RELAY_DRAIN_SECONDS.",
            YES_NO,
            Query(f"max by (instance) ({series('draining')})", "{{instance}}"),
        ),
        graph_panel(
            "Dropped and crashed",
            "Dropped log lines, connections closed unanswered, and crashed background tasks.",
            "0 for all three.",
            PER_MINUTE,
            Query(per_minute("log_lines_dropped_total"), "log lines dropped"),
            Query(per_minute("connections_turned_away_total"), "connections closed unanswered"),
            Query(per_minute("background_task_crashes_total"), "tasks crashed"),
        ),
        graph_panel(
            "Key rotations",
            "New keys found in the file of OPENAI_API_KEY_FILE, by result.",
            "empty except when a key is rotated; then taken.",
            COUNT,
            Query(f"sum by (result) (increase({series('key_rotations_total')}[{WINDOW}]))", "{{result}}"),
        ),
    )
