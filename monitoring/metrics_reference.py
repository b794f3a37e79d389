"""Renders `docs/metrics.md` from the relay's registry, grouped by the question that a metric answers.

QUESTIONS has the names as the client library has them: without the prefix and without `_total` or `_info`.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import Metric

from service.health.checks import CHECKS, LIVE, STORE, TURN
from service.telemetry.metrics import PREFIX, Metrics
from service.web.console_access import ConsoleAccess

QUESTIONS: Final = {
    "Do client connections succeed?": (
        "admissions", "connections_turned_away", "reconnect_loops", "upstream_connects", "connection_failures",
        "upstream_retries", "breaker_open", "health_check_status", "health_check_reason",
        "health_check_last_success_timestamp_seconds", "key_rotations", "key_file_refused", "clients_file_loads",
        "clients_file_refused", "clients_file_loaded_timestamp_seconds", "jwt_checks", "jwks_fetches", "jwks_failing",
        "client_secrets",
    ),
    "How long does a connection take?": ("time_to_first_event_seconds", "upstream_connect_duration_seconds"),
    "How do sessions run and end?": (
        "sessions_active", "sessions_ended", "session_duration_seconds", "upstream_error_events", "session_incidents",
    ),
    "Do sessions outlive their upstream connections?": (
        "swaps", "swap_seconds", "swap_gap_seconds", "replayed_items", "lost_turns", "not_renewable", "text_drift",
        "continuity_bytes",
    ),
    "How fast are responses, and what do they cost?": (
        "speech_to_audio_seconds", "response_first_delta_seconds", "responses", "interruptions", "tokens",
        "estimated_cost_usd", "unpriced_responses", "rate_limit_remaining_ratio", "events", "policy_events_refused",
    ),
    "How do sessions of GPT-Live run, and what do they cost?": (
        "live_start_seconds", "live_start_failures", "live_speech_to_speech_seconds",
        "billed_seconds", "live_final_usage", "live_context_ratio",
        "live_backend_responses", "live_backend_tokens", "live_events_refused",
    ),
    "Does the store that instances share answer?": (
        "store_up", "store_calls", "store_call_duration_seconds", "store_journal_records", "store_losses",
        "store_sessions_over_limit",
    ),
    "What is the state of the process?": (
        "sessions_limit", "dials_active", "dials_limit", "memory_limit_bytes", "forwarded_messages", "forwarded_bytes",
        "backpressure_seconds", "event_loop_lag_seconds", "background_task_crashes", "log_lines_dropped",
        "records", "client_budget_used_ratio", "operator_requests_refused", "draining", "build",
    ),
}  # fmt: skip
_MAX_LISTED_VALUES: Final = 12


def render_markdown() -> str:
    """The text of `docs/metrics.md`."""
    families = {family.name: family for family in _families()}
    parts = [
        "# Metrics\n",
        (
            "Generated from `service/telemetry/`. Served at `/metrics` of the internal port, in Prometheus' text format or "
            "OpenMetrics.\n"
        ),
        (
            "Labels are closed sets: text from a client or from the provider never becomes a label value. Series that an "
            "alert uses start at 0, so that the first failure is an increase. The relay's own health checks are not counted "
            "as client connections. The panels of [the dashboards](monitoring.md) state the normal value of each metric.\n"
        ),
    ]
    for question, names in QUESTIONS.items():
        parts += [f"## {question}\n", "| metric | type | labels | meaning |\n| --- | --- | --- | --- |"]
        parts[-1] += "".join(f"\n{_row(_family(families, name))}" for name in names) + "\n"
    parts.append(
        "## The process\n\nThe standard metrics of Prometheus' client libraries: `process_resident_memory_bytes`, "
        "`process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_start_time_seconds`, "
        "`process_virtual_memory_bytes`.\n"
    )
    return "\n".join(parts)


def _families() -> Iterable[Metric]:
    metrics = Metrics("openai")
    for check in (*CHECKS, TURN, LIVE, STORE):
        metrics.set_check_status(check, "unknown")
        metrics.health_success.labels(check)
    metrics.budget_used.labels("a client of RELAY_CLIENTS_FILE")
    ConsoleAccess(None, metrics.operator_refusals)
    return metrics.registry.collect()


def _family(families: Mapping[str, Metric], name: str) -> Metric:
    family = families.get(f"{PREFIX}_{name}")
    if family is None:
        raise ValueError(
            f"QUESTIONS names {name!r}, which is no metric of the relay. Write a name without the prefix {PREFIX}_ and "
            "without _total or _info, as in 'admissions'."
        )
    return family


def _row(family: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    text = family.documentation.replace("|", "\\|")
    if family.type == "histogram":
        bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
        text += f" Buckets: {', '.join(dict.fromkeys(f'{float(bound):g}' for bound in bounds if bound != '+Inf'))}."
    return f"| `{family.name}{suffix}` | {family.type} | {_labels(family)} | {text} |"


def _labels(family: Metric) -> str:
    values: dict[str, dict[str, None]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                values.setdefault(label, {})[value] = None
    return "<br>".join(_label(label, list(known)) for label, known in values.items() if label != "version")


def _label(label: str, known: list[str]) -> str:
    match label:
        case "upstream":
            return "`upstream`: openai, azure, compatible, simulator"
        case "reason" | "result" if len(known) > _MAX_LISTED_VALUES:
            return f"`{label}`: a reason of [the catalogue](failures.md)"
        case _ if len(known) > _MAX_LISTED_VALUES:
            return f"`{label}`: {len(known)} values"
        case _:
            return f"`{label}`: {', '.join(known)}"
