"""Every metric, in one list.

Rules of this file:

* Labels are closed sets; nothing from outside becomes a label value.
* The series that an alert would look at start at 0, so that the first failure is an increase and not a birth.
* Attempts and failures are both counted, at their end. What every message adds to is in `traffic.py`.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.process_collector import ProcessCollector

from service.failures import CATALOGUE, DIAL_FAILURES, ENDINGS, REFUSALS, Failure, Phase
from service.realtime.events import CLIENT_EVENT_TYPES, ERROR_CODES, SERVER_EVENT_TYPES, Direction
from service.realtime.incidents import OTHER, RATE_LIMIT_NAMES, RATE_LIMITS_UPDATED, RESPONSE_DONE, TRANSCRIPTION_FAILED
from service.telemetry.conversations import ConversationMetrics
from service.telemetry.traffic import Traffic, TrafficCollector
from service.version import __version__

PREFIX: Final = "realtime_relay"

HTTP_STATUSES: Final = frozenset({
    101, 200, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 407, 408, 424, 426, 429, 451, 500, 502, 503, 504, 520, 521,
    522, 523, 524, 529,
})  # fmt: skip
CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4000, 4004})

HEALTH_STATUSES: Final = ("pass", "warn", "fail", "unknown")

# A dial's phases: DNS and TCP take milliseconds, TLS and the upgrade a round trip each, the whole at most its budget (8 s).
_DIAL_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8)
# What a caller waits: a few round trips when all is well, up to the budget (8 s) when not; clients give up after 10.
_WAIT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10)
# Sessions: a misfire lasts seconds, a conversation minutes, and the provider ends it after an hour.
_SESSION_BUCKETS: Final = (1, 5, 15, 30, 60, 180, 300, 600, 1200, 1800, 3600, 3900)
# Loop lag: a frame's forwarding is well under a millisecond; from 20 ms on speech is delayed audibly.
_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

# The wire status that each refusal is expected with; together with the reason's phase these series start at 0.
_EXPECTED: Final[tuple[tuple[str, Phase, str], ...]] = (
    ("key_missing", Phase.FIRST_EVENT, "3000"),
    ("key_rejected", Phase.FIRST_EVENT, "3000"),
    ("key_rejected", Phase.UPGRADE, "401"),
    ("key_forbidden", Phase.FIRST_EVENT, "3000"),
    ("key_forbidden", Phase.UPGRADE, "401"),
    ("key_forbidden", Phase.UPGRADE, "403"),
    ("region_blocked", Phase.UPGRADE, "403"),
    ("quota_exhausted", Phase.FIRST_EVENT, "1013"),
    ("quota_exhausted", Phase.UPGRADE, "429"),
    ("beta_shape", Phase.FIRST_EVENT, "4000"),
    ("model_not_found", Phase.FIRST_EVENT, "4000"),
    ("model_not_found", Phase.FIRST_EVENT, "4004"),
    ("model_not_found", Phase.UPGRADE, "404"),
    ("call_not_found", Phase.UPGRADE, "404"),
    ("rate_limited", Phase.UPGRADE, "429"),
    ("rate_limited", Phase.FIRST_EVENT, "1013"),
    ("upstream_overloaded", Phase.UPGRADE, "503"),
    ("upstream_overloaded", Phase.FIRST_EVENT, "1013"),
    ("upstream_error", Phase.UPGRADE, "500"),
    ("upstream_error", Phase.UPGRADE, "502"),
    ("upstream_error", Phase.UPGRADE, "504"),
    ("upstream_error", Phase.UPGRADE, "520"),
    ("redirect_refused", Phase.UPGRADE, "302"),
    ("bad_reply", Phase.UPGRADE, "101"),
    ("bad_reply", Phase.UPGRADE, "200"),
    ("bad_reply", Phase.CONNECT, "none"),
    ("dropped_early", Phase.UPGRADE, "none"),
    ("dropped_early", Phase.FIRST_EVENT, "none"),
    ("dns_failed", Phase.DNS, "none"),
    ("connect_refused", Phase.CONNECT, "none"),
    ("network_unreachable", Phase.CONNECT, "none"),
    ("proxy_failed", Phase.CONNECT, "none"),
    ("tls_failed", Phase.CONNECT, "none"),
    ("tls_untrusted", Phase.CONNECT, "none"),
    ("connect_timeout", Phase.DNS, "none"),
    ("connect_timeout", Phase.CONNECT, "none"),
    ("reply_timeout", Phase.UPGRADE, "none"),
    ("first_event_timeout", Phase.FIRST_EVENT, "none"),
    ("key_rejected", Phase.BREAKER, "3000"),
    ("key_forbidden", Phase.BREAKER, "3000"),
    ("quota_exhausted", Phase.BREAKER, "1013"),
    ("tls_untrusted", Phase.BREAKER, "none"),
    ("client_left", Phase.CONNECT, "none"),
    ("client_left", Phase.UPGRADE, "none"),
    ("client_left", Phase.FIRST_EVENT, "none"),
)
# Refused by the relay itself: phase access, and the status is what it answered.
_LOCAL: Final = (*REFUSALS, "key_missing", "key_malformed", "internal_error")


class Metrics:
    """All instruments, on a registry of their own."""

    def __init__(self, upstream: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped upstream. They would double the number of series and no panel asks for them
        self.registry = CollectorRegistry()
        self.upstream = upstream
        ProcessCollector(registry=self.registry)
        self._info = Info(f"{PREFIX}_build", "The relay's version.", registry=self.registry)
        self._info.info({"version": __version__})
        self.connection_failures = Counter(
            f"{PREFIX}_connection_failures_total",
            "Callers' connections that did not come about.",
            ("upstream", "phase", "status", "reason"),
            registry=self.registry,
        )
        self.admissions = Counter(
            f"{PREFIX}_admissions_total",
            "Callers' requests, by what admission said.",
            ("result",),
            registry=self.registry,
        )
        self.turned_away = Counter(
            f"{PREFIX}_connections_turned_away_total",
            "Connections cut off unheard because the limit on open files was near.",
            registry=self.registry,
        )
        self.reconnect_loops = Counter(
            f"{PREFIX}_reconnect_loops_total",
            "Clients noticed for opening one short session after another; each loop counts once.",
            registry=self.registry,
        )
        self.upstream_connects = Counter(
            f"{PREFIX}_upstream_connects_total",
            "Callers' dials, by result; ok is a first event that is no error.",
            ("upstream", "result"),
            registry=self.registry,
        )
        self.connect_duration = Histogram(
            f"{PREFIX}_upstream_connect_duration_seconds",
            "How long each phase of a caller's dial took.",
            ("upstream", "phase"),
            buckets=_DIAL_BUCKETS,
            registry=self.registry,
        )
        self.time_to_first_event = Histogram(
            f"{PREFIX}_time_to_first_event_seconds",
            "From a caller's request to the provider's first event, of the calls that got through.",
            ("upstream",),
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self.upstream_retries = Counter(
            f"{PREFIX}_upstream_retries_total",
            "Second attempts within a caller's dial; at most a tenth of the dials.",
            ("upstream",),
            registry=self.registry,
        )
        self.breaker_open = Gauge(
            f"{PREFIX}_breaker_open",
            "1 while callers are answered from memory because the provider has just refused.",
            ("upstream",),
            registry=self.registry,
        )
        self.key_rotations = Counter(
            f"{PREFIX}_key_rotations_total",
            "New keys found in the file of OPENAI_API_KEY_FILE, by what became of them.",
            ("result",),
            registry=self.registry,
        )
        self.key_file_refused = Gauge(
            f"{PREFIX}_key_file_refused",
            "1 while the file of OPENAI_API_KEY_FILE holds a key that was not taken; the one before it stays in use.",
            registry=self.registry,
        )
        self.sessions_active = Gauge(f"{PREFIX}_sessions_active", "Sessions open now.", registry=self.registry)
        self.sessions_limit = Gauge(
            f"{PREFIX}_sessions_limit", "Sessions that may be open at once.", registry=self.registry
        )
        self.dials_active = Gauge(
            f"{PREFIX}_dials_active", "Connections to the provider being made now.", registry=self.registry
        )
        self.dials_limit = Gauge(
            f"{PREFIX}_dials_limit", "Connections to the provider that may be made at once.", registry=self.registry
        )
        self.memory_limit = Gauge(
            f"{PREFIX}_memory_limit_bytes", "The container's limit on memory; +Inf without one.", registry=self.registry
        )
        self.sessions_ended = Counter(
            f"{PREFIX}_sessions_ended_total", "Sessions that ended, by reason.", ("reason",), registry=self.registry
        )
        self.session_duration = Histogram(
            f"{PREFIX}_session_duration_seconds",
            "How long sessions lasted.",
            buckets=_SESSION_BUCKETS,
            registry=self.registry,
        )
        self.traffic = {
            direction: Traffic(direction, types)
            for direction, types in zip(Direction, (CLIENT_EVENT_TYPES, SERVER_EVENT_TYPES), strict=True)
        }
        self.registry.register(TrafficCollector(PREFIX, self.traffic.values()))
        self.conversations = ConversationMetrics(PREFIX, self.registry)
        self.upstream_errors = Counter(
            f"{PREFIX}_upstream_error_events_total", "Error events in open sessions.", ("code",), registry=self.registry
        )
        self.incidents = Counter(
            f"{PREFIX}_session_incidents_total",
            "Failures within open sessions that the provider told by other events than error.",
            ("event", "code"),
            registry=self.registry,
        )
        self.health_status = Gauge(
            f"{PREFIX}_health_check_status",
            "1 for the status that a check has.",
            ("check", "status"),
            registry=self.registry,
        )
        self.health_reason = Gauge(
            f"{PREFIX}_health_check_reason",
            "1 for the reason for which a check does not pass.",
            ("check", "reason"),
            registry=self.registry,
        )
        self.health_success = Gauge(
            f"{PREFIX}_health_check_last_success_timestamp_seconds",
            "When a check last passed; 0 is never.",
            ("check",),
            registry=self.registry,
        )
        self.loop_lag = Histogram(
            f"{PREFIX}_event_loop_lag_seconds",
            "How late the event loop ran a timer.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )
        self.task_crashes = Counter(
            f"{PREFIX}_background_task_crashes_total",
            "Background tasks that failed and were started again; anything but 0 is a bug of the relay.",
            registry=self.registry,
        )
        self.log_lines_dropped = Counter(
            f"{PREFIX}_log_lines_dropped_total",
            "Log lines dropped because whoever reads them did not keep up.",
            registry=self.registry,
        )
        self.draining = Gauge(f"{PREFIX}_draining", "1 once the relay takes nobody new.", registry=self.registry)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for reason, phase, status in _EXPECTED:
            self.connection_failures.labels(self.upstream, phase, status, reason)
        for reason in _LOCAL:
            self.connection_failures.labels(self.upstream, Phase.ACCESS, _answered(reason), reason)
        for result in ("admitted", *_LOCAL):
            self.admissions.labels(result)
        for result in ("ok", *DIAL_FAILURES):
            self.upstream_connects.labels(self.upstream, result)
        for reason in ("relay_draining", *ENDINGS):
            self.sessions_ended.labels(reason)
        self.upstream_retries.labels(self.upstream)
        self.breaker_open.labels(self.upstream)
        self.time_to_first_event.labels(self.upstream)
        for phase in (Phase.DNS, Phase.CONNECT, Phase.UPGRADE, Phase.FIRST_EVENT):
            self.connect_duration.labels(self.upstream, phase)
        for result in ("taken", "refused"):
            self.key_rotations.labels(result)
        for code in (*ERROR_CODES, OTHER):
            self.upstream_errors.labels(code)
            self.incidents.labels(RESPONSE_DONE, code)
            self.incidents.labels(TRANSCRIPTION_FAILED, code)
        for limit in (*RATE_LIMIT_NAMES, OTHER):
            self.incidents.labels(RATE_LIMITS_UPDATED, limit)

    def count_refusal(self, failure: Failure) -> None:
        """Admission said no; the status is what was answered."""
        self.admissions.labels(failure.reason).inc()
        self.connection_failures.labels(self.upstream, Phase.ACCESS, _answered(failure.reason), failure.reason).inc()

    def count_dial_failure(self, failure: Failure) -> None:
        """A caller's dial did not come about; the status is what the wire said."""
        self.upstream_connects.labels(self.upstream, failure.reason).inc()
        status = status_label(failure.http_status, failure.close_code)
        self.connection_failures.labels(self.upstream, failure.phase, status, failure.reason).inc()

    def observe_dial(self, seconds: dict[Phase, float]) -> None:
        """The phases of a dial, as far as it came."""
        for phase, duration in seconds.items():
            self.connect_duration.labels(self.upstream, phase).observe(duration)

    def set_check_status(self, check: str, status: str, reason: str | None = None) -> None:
        """A health check has this status and no other; `reason` is why it does not pass."""
        for known in HEALTH_STATUSES:
            self.health_status.labels(check, known).set(known == status)
        for known in DIAL_FAILURES:
            self.health_reason.labels(check, known).set(known == reason)


def _answered(reason: str) -> str:
    """The status that a client gets for a reason of the relay's own."""
    return status_label(CATALOGUE[reason].http_status or 500, None)


def status_label(http_status: int | None, close_code: int | None) -> str:
    """The `status` label: an HTTP status or close code of the published lists, else its kind, `none` without either."""
    if http_status is not None:
        return str(http_status) if http_status in HTTP_STATUSES else "other_http"
    if close_code is not None:
        return str(close_code) if close_code in CLOSE_CODES else "other_close"
    return "none"
