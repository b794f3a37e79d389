"""All Prometheus metrics of the relay.

Rules of this file:

* Labels are closed sets. No value from a client or from the provider becomes a label value.
* Every series that an alert evaluates starts at 0, because `increase()` ignores the first sample of a new series.
* Attempts and failures are counted when they end. Counters that every message increments are in `traffic.py`.
"""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Info, disable_created_metrics
from prometheus_client.process_collector import ProcessCollector

from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, ENDINGS, Failure, Phase
from service.realtime import events, live
from service.realtime.events import ERROR_CODES, Api, Direction
from service.realtime.incidents import OTHER, RATE_LIMIT_NAMES, RATE_LIMITS_UPDATED, RESPONSE_DONE, TRANSCRIPTION_FAILED
from service.telemetry.continuity import ContinuityMetrics
from service.telemetry.conversations import ConversationMetrics
from service.telemetry.expected_failures import EXPECTED_FAILURES
from service.telemetry.live_calls import LiveMetrics
from service.telemetry.recent import Recent
from service.telemetry.series import Counter, Gauge, Histogram
from service.telemetry.shared_store import StoreMetrics
from service.telemetry.tokens import TokenMetrics
from service.telemetry.traffic import Traffic, TrafficCollector
from service.version import __version__

PREFIX: Final = "realtime_relay"

HTTP_STATUSES: Final = frozenset({
    101, 200, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 407, 408, 421, 424, 426, 429, 431, 451, 500, 502, 503,
    504, 520, 521, 522, 523, 524, 529,
})  # fmt: skip
CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4004})

HEALTH_STATUSES: Final = ("pass", "warn", "fail", "unknown")

# Phases of a dial: DNS and TCP take milliseconds, TLS and the upgrade a round trip each, all of them at most 8 s.
_DIAL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8)
# Waiting time of a client: normally a few round trips, at most the dial timeout of 8 s. Official clients give up after 10 s.
_WAIT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10)
# Session duration: seconds for a failed start, minutes for a conversation; the provider ends one after one or two hours.
_SESSION_BUCKETS: Final = (1, 5, 15, 30, 60, 180, 300, 600, 1200, 1800, 3600, 3900, 5400, 7500)
# Event loop lag: forwarding a frame takes well under a millisecond; a delay of 20 ms or more is audible in speech.
_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

# Refused by the relay itself: the phase is access, the status is the relay's own answer.
_REFUSED_BY_RELAY: Final = (*ADMISSION_FAILURES, "key_missing", "key_malformed", "internal_error")

_EVENT_TYPES: Final = {
    (Api.REALTIME, Direction.CLIENT_TO_UPSTREAM): events.CLIENT_EVENT_TYPES,
    (Api.REALTIME, Direction.UPSTREAM_TO_CLIENT): events.SERVER_EVENT_TYPES,
    (Api.LIVE, Direction.CLIENT_TO_UPSTREAM): live.CLIENT_EVENT_TYPES,
    (Api.LIVE, Direction.UPSTREAM_TO_CLIENT): live.SERVER_EVENT_TYPES,
}


class Metrics:
    """The metrics of one relay, on a registry of their own. `upstream` is the value of the `upstream` label.

    `recent` holds the same events for the operator's page.
    """

    def __init__(self, upstream: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped. `_created` series would double their number and are not used
        self.registry = CollectorRegistry()
        self.upstream = upstream
        self.recent = Recent(time.monotonic, time.time)
        ProcessCollector(registry=self.registry)
        self._info = Info(f"{PREFIX}_build", "Version of the relay.", registry=self.registry)
        self._info.info({"version": __version__})
        self.connection_failures = Counter(
            f"{PREFIX}_connection_failures_total",
            "Client connections that failed before a session started. Health checks are not counted.",
            ("upstream", "phase", "status", "reason"),
            registry=self.registry,
        )
        self.admissions = Counter(
            f"{PREFIX}_admissions_total",
            "Client requests by admission result: admitted, or the reason of the refusal.",
            ("result",),
            registry=self.registry,
        )
        self.turned_away = Counter(
            f"{PREFIX}_connections_turned_away_total",
            "Connections closed without an answer because the process was near its limit on open files.",
            registry=self.registry,
        )
        self.reconnect_loops = Counter(
            f"{PREFIX}_reconnect_loops_total",
            "Reconnect loops: clients that opened many short sessions in a row. Each loop is counted once.",
            registry=self.registry,
        )
        self.upstream_connects = Counter(
            f"{PREFIX}_upstream_connects_total",
            "Dials for clients by result: ok (the first event arrived and is no error), or the reason of the failure.",
            ("upstream", "result"),
            registry=self.registry,
        )
        self.connect_duration = Histogram(
            f"{PREFIX}_upstream_connect_duration_seconds",
            "Duration of each phase of a dial for a client.",
            ("upstream", "phase"),
            buckets=_DIAL_BUCKETS,
            registry=self.registry,
        )
        self.time_to_first_event = Histogram(
            f"{PREFIX}_time_to_first_event_seconds",
            "Time from a client's request to the provider's first event, for sessions that started.",
            ("upstream",),
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.upstream_retries = Counter(
            f"{PREFIX}_upstream_retries_total",
            "Second attempts of dials for clients; a retry budget limits them to a tenth of the dials.",
            ("upstream",),
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            f"{PREFIX}_breaker_open",
            "1 while the circuit breaker is open: the relay refuses dials because recent dials failed.",
            ("upstream",),
            registry=self.registry,
        )
        self.key_rotations = Counter(
            f"{PREFIX}_key_rotations_total",
            "New keys found in OPENAI_API_KEY_FILE by result: taken (in use) or refused.",
            ("result",),
            registry=self.registry,
        )
        self.key_file_refused = Gauge(
            f"{PREFIX}_key_file_refused",
            "1 while OPENAI_API_KEY_FILE cannot be read or holds a key that was refused; the previous key stays in use.",
            registry=self.registry,
        )
        self.clients_file_loads = Counter(
            f"{PREFIX}_clients_file_loads_total",
            "Reads of a new RELAY_CLIENTS_FILE by result: loaded (in use), rejected (it has mistakes) or unreadable.",
            ("result",),
            registry=self.registry,
        )
        self.clients_file_refused = Gauge(
            f"{PREFIX}_clients_file_refused",
            "1 while RELAY_CLIENTS_FILE cannot be read or has mistakes; the last good one stays in use.",
            registry=self.registry,
        )
        self.clients_file_loaded = Gauge(
            f"{PREFIX}_clients_file_loaded_timestamp_seconds",
            "Time at which the RELAY_CLIENTS_FILE in use was loaded; 0 without one.",
            registry=self.registry,
        )
        self.sessions_active = Gauge(f"{PREFIX}_sessions_active", "Open sessions.", ("api",), registry=self.registry)
        self.sessions_limit = Gauge(
            f"{PREFIX}_sessions_limit", "Maximum number of open sessions.", registry=self.registry
        )
        self.dials_active = Gauge(f"{PREFIX}_dials_active", "Dials in progress.", registry=self.registry)
        self.dials_limit = Gauge(
            f"{PREFIX}_dials_limit", "Maximum number of dials in progress.", registry=self.registry
        )
        self.memory_limit = Gauge(
            f"{PREFIX}_memory_limit_bytes",
            "Memory limit of the container; +Inf without a limit.",
            registry=self.registry,
        )
        self.sessions_ended = Counter(
            f"{PREFIX}_sessions_ended_total", "Ended sessions by reason.", ("api", "reason"), registry=self.registry
        )
        self.session_duration = Histogram(
            f"{PREFIX}_session_duration_seconds",
            "Duration of ended sessions.",
            ("api",),
            buckets=_SESSION_BUCKETS,
            registry=self.registry,
        )
        self.traffic = {key: Traffic(key[1], types) for key, types in _EVENT_TYPES.items()}
        self.registry.register(TrafficCollector(PREFIX, self.traffic))
        self.conversations = ConversationMetrics(PREFIX, self.registry)
        self.live = LiveMetrics(PREFIX, self.registry, self.conversations)
        self.store = StoreMetrics(PREFIX, self.registry)
        self.tokens = TokenMetrics(PREFIX, self.registry)
        self.upstream_errors = Counter(
            f"{PREFIX}_upstream_error_events_total",
            "Error events from the provider in open sessions, by code.",
            ("code",),
            registry=self.registry,
        )
        self.incidents = Counter(
            f"{PREFIX}_session_incidents_total",
            "Failures within open sessions that the provider reported by an event other than error.",
            ("event", "code"),
            registry=self.registry,
        )
        self.health_status = Gauge(
            f"{PREFIX}_health_check_status",
            "1 for the current status of a health check, 0 for the others.",
            ("check", "status"),
            registry=self.registry,
        )
        self.health_reason = Gauge(
            f"{PREFIX}_health_check_reason",
            "1 for the reason why a health check does not pass, 0 for the others.",
            ("check", "reason"),
            registry=self.registry,
        )
        self.health_success = Gauge(
            f"{PREFIX}_health_check_last_success_timestamp_seconds",
            "Time of the last pass of a health check; 0 if it never passed.",
            ("check",),
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            f"{PREFIX}_event_loop_lag_seconds",
            "Delay of a timer of the event loop.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self.operator_refusals = Counter(
            f"{PREFIX}_operator_requests_refused_total",
            "Refused requests to the operator's page and API on the internal port, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.task_crashes = Counter(
            f"{PREFIX}_background_task_crashes_total",
            "Background tasks that failed and were restarted. Any value above 0 is a bug in the relay.",
            registry=self.registry,
        )
        self.log_lines_dropped = Counter(
            f"{PREFIX}_log_lines_dropped_total",
            "Log lines dropped because the reader of the log was too slow.",
            registry=self.registry,
        )
        self.budget_used = Gauge(
            f"{PREFIX}_client_budget_used_ratio",
            "Used share of the budget of which a client of RELAY_CLIENTS_FILE has used most, in this day or month (UTC).",
            ("client",),  # the operator declares the clients
            registry=self.registry,
        )
        self.records = Counter(
            f"{PREFIX}_records_total",
            "Records of ended sessions by result: written, or lost because RELAY_RECORDS could not be written.",
            ("result",),
            registry=self.registry,
        )
        self.continuity = ContinuityMetrics(PREFIX, self.registry)
        self.draining = Gauge(
            f"{PREFIX}_draining", "1 while the relay drains: it refuses new sessions.", registry=self.registry
        )
        self._health_reasons: dict[str, str | None] = {}  # that health_reason shows, by check
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        self.connection_failures.start_each_at_zero(
            (self.upstream, phase, status, reason) for reason, phase, status in EXPECTED_FAILURES
        )
        self.connection_failures.start_each_at_zero(
            (self.upstream, Phase.ACCESS, _relay_status(reason), reason) for reason in _REFUSED_BY_RELAY
        )
        self.admissions.start_at_zero(("admitted", *_REFUSED_BY_RELAY))
        upstream = (self.upstream,)
        self.upstream_connects.start_at_zero(upstream, ("ok", *DIAL_FAILURES))
        self.sessions_active.start_at_zero(Api)
        self.session_duration.start_at_zero(Api)
        others = ("relay_draining", "client_disabled", "token_expired", "store_unavailable", "budget_exhausted")
        self.sessions_ended.start_at_zero(Api, (*others, *ENDINGS))
        self.upstream_retries.start_at_zero(upstream)
        self.breaker_open.start_at_zero(upstream)
        self.time_to_first_event.start_at_zero(upstream)
        self.connect_duration.start_at_zero(upstream, (Phase.DNS, Phase.CONNECT, Phase.UPGRADE, Phase.FIRST_EVENT))
        self.records.start_at_zero(("written", "lost"))
        self.key_rotations.start_at_zero(("taken", "refused"))
        self.clients_file_loads.start_at_zero(("loaded", "rejected", "unreadable"))
        codes = (*ERROR_CODES, OTHER)
        self.upstream_errors.start_at_zero(codes)
        self.incidents.start_at_zero((RESPONSE_DONE, TRANSCRIPTION_FAILED, live.RESPONSE_EVENT), codes)
        self.incidents.start_at_zero((RATE_LIMITS_UPDATED,), (*RATE_LIMIT_NAMES, OTHER))

    def count_admission_failure(self, failure: Failure) -> None:
        """Count a request that the relay refuses; the status label is the relay's own answer."""
        self.recent.outcomes.failed(failure.reason)
        self.admissions.labels(failure.reason).inc()
        self.connection_failures.labels(
            self.upstream, Phase.ACCESS, _relay_status(failure.reason), failure.reason
        ).inc()

    def count_start_refusal(self, failure: Failure) -> None:
        """Count a GPT-Live session that the relay does not start; the status label is the close code of its answer."""
        self.recent.outcomes.failed(failure.reason)
        status = status_label(None, failure.row.event_close_code)
        self.connection_failures.labels(self.upstream, failure.phase, status, failure.reason).inc()

    def count_dial_failure(self, failure: Failure) -> None:
        """Count a failed dial for a client; the status label is the provider's answer."""
        self.recent.outcomes.failed(failure.reason)
        self.upstream_connects.labels(self.upstream, failure.reason).inc()
        status = status_label(failure.http_status, failure.close_code)
        self.connection_failures.labels(self.upstream, failure.phase, status, failure.reason).inc()

    def count_connected(self) -> None:
        """Count a dial that succeeded for a client; one of GPT-Live once its session has started."""
        self.recent.outcomes.succeeded()
        self.upstream_connects.labels(self.upstream, "ok").inc()

    def observe_lag(self, seconds: float) -> None:
        """Record how late the event loop ran a timer."""
        self.recent.lag.observe(seconds)
        self.loop_lag.observe(seconds)

    def observe_dial(self, seconds: dict[Phase, float]) -> None:
        """Record the duration of the phases that a dial completed, in seconds."""
        for phase, duration in seconds.items():
            self.connect_duration.labels(self.upstream, phase).observe(duration)

    def set_check_status(self, check: str, status: str, reason: str | None = None) -> None:
        """Set the status of a health check, and the reason why it does not pass."""
        for value in HEALTH_STATUSES:
            self.health_status.labels(check, value).set(value == status)
        if check not in self._health_reasons:
            self.health_reason.start_at_zero((check,), DIAL_FAILURES)
        for shown in (self._health_reasons.get(check), reason):
            if shown in DIAL_FAILURES:
                self.health_reason.labels(check, shown).set(shown == reason)
        self._health_reasons[check] = reason


def _relay_status(reason: str) -> str:
    """The status label of the relay's own answer to a client."""
    return status_label(CATALOGUE[reason].http_status or 500, None)


def status_label(http_status: int | None, close_code: int | None) -> str:
    """Return the `status` label: a published HTTP status or close code, else `other_http`, `other_close` or `none`."""
    if http_status is not None:
        return str(http_status) if http_status in HTTP_STATUSES else "other_http"
    if close_code is not None:
        return str(close_code) if close_code in CLOSE_CODES else "other_close"
    return "none"
