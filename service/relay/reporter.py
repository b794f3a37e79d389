"""How a session is counted and logged: its start, the failures within it, its end."""

import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

from service.failures import CATALOGUE, Level
from service.realtime.events import Api, Direction
from service.realtime.incidents import ERROR, Incident
from service.realtime.pricing import model_label, transcription_cost_usd
from service.realtime.server_events import ParsedEvent
from service.relay.ending import Ending
from service.relay.pipe import Pipe
from service.relay.record import record_of
from service.relay.session_info import SessionInfo
from service.relay.spent import Spent
from service.telemetry.metrics import Metrics
from service.telemetry.records import RecordWriter
from service.telemetry.redact import Redactor


class SharedTelemetry:
    """What the sessions of a process share: metrics, traffic counters, redaction, and the records if any are kept."""

    def __init__(self, metrics: Metrics, redactor: Redactor, records: RecordWriter | None = None) -> None:
        self.records = records
        self.metrics = metrics
        self.redactor = redactor
        self.client_to_upstream = {api: metrics.traffic[api, Direction.CLIENT_TO_UPSTREAM] for api in Api}
        self.upstream_to_client = {api: metrics.traffic[api, Direction.UPSTREAM_TO_CLIENT] for api in Api}


class SessionReporter:
    """Counts and logs one session. Each ending is counted once and has one canonical log line, `session.ended`.

    Logging and counting may raise; the session decides what that means, except in `failed`.
    """

    def __init__(self, info: SessionInfo, telemetry: SharedTelemetry) -> None:
        self._info = info
        self._metrics = telemetry.metrics
        self._records = telemetry.records
        self._log = structlog.get_logger().bind(session_id=info.session_id)
        self._model = model_label(info.model)
        self.spending = Spent()
        self._error_code: str | None = None
        self._error_position = 0  # how many messages upstream had sent before its last error
        self._incidents: set[Incident] = set()  # of a closed set: it stays small

    def started(self, connect_seconds: float) -> None:
        """Log the start."""
        info = self._info
        self._log.info(
            "session.started",
            client=info.client,
            user=info.user,
            address=info.address,
            model=info.model,
            upstream=self._metrics.upstream,
            connect_seconds=round(connect_seconds, 4),
        )

    def incident_seen(self, incident: Incident | None, position: int) -> None:
        """Count a failure within the session, if there is one; `position` as in `event_parsed`."""
        if incident is not None:
            self._error_position = position
            self._report_incident(incident)

    def event_parsed(self, event: ParsedEvent, position: int) -> None:
        """Count what an upstream event reports; `position` is the number of messages before it."""
        conversations = self._metrics.conversations
        self.incident_seen(event.incident, position)
        if event.response is not None:
            cost, usage = conversations.count_response(self._model, event.response), event.response.usage
            if usage is None and cost is None:
                self.spending.add_unmeasured()
            else:
                self.spending.add(cost, tokens=usage.total if usage is not None else 0, usage=usage)
        if (transcription := event.transcription) is not None:
            if transcription.is_reported:
                self.spending.add(transcription_cost_usd(transcription), tokens=transcription.tokens)
            else:
                self.spending.add_unmeasured()
        for limit, ratio in event.remaining_ratios:
            conversations.set_remaining_ratio(limit, ratio)

    def _report_incident(self, incident: Incident) -> None:
        """Count a failure within the session each time, and log each kind once. Most sessions go on after one."""
        metrics, code = self._metrics, incident.code
        if incident.event == ERROR:
            self._error_code = code
            metrics.upstream_errors.labels(code).inc()
        else:
            metrics.incidents.labels(incident.event, code).inc()
        if incident not in self._incidents:
            self._incidents.add(incident)
            self._log.warning(
                "session.incident_seen",
                upstream_event=incident.event,
                upstream_code=code,
                message="The provider reported a failure within the session to the client.",
                client=self._info.client,
                model=self._info.model,
            )

    def protocol_broken(self, side: str, detail: str) -> None:
        """Log a violation of RFC 6455 or of a limit."""
        self._log.debug("session.protocol_broken", side=side, detail=detail)

    def failed(self) -> None:
        """Log the exception that is being handled, without values, which may be secret. Raises nothing."""
        with suppress(Exception):  # logging may be what failed
            self._log.exception("session.failed")

    def ended(
        self, end: Ending, duration_seconds: float, to_upstream: Pipe, to_client: Pipe, summary: Mapping[str, object]
    ) -> None:
        """Count and log the ending; `summary` holds further fields."""
        info, row = self._info, CATALOGUE[end.reason]
        # An error that upstream sent long before does not explain the ending: most sessions go on after one.
        error_was_last = to_client.messages - self._error_position <= 1
        self._metrics.sessions_ended.labels(info.api, end.reason).inc()
        self._metrics.session_duration.labels(info.api).observe(duration_seconds)
        self._write_record(end.reason, duration_seconds, (to_upstream.messages, to_client.messages), summary)
        if row.level > Level.INFO:
            self._metrics.recent.failures.session_ended(
                end.reason,
                session_id=info.session_id,
                client=info.client,
                address=info.address,
                model=info.model,
                detail=end.detail,
            )
        self._log.log(
            row.level,
            "session.ended",
            reason=end.reason,
            blame=row.blame,
            runbook=row.runbook,
            duration_seconds=round(duration_seconds, 3),
            client=info.client,
            user=info.user,
            address=info.address,
            model=info.model,
            client_to_upstream_messages=to_upstream.messages,
            client_to_upstream_bytes=to_upstream.forwarded_bytes,
            upstream_to_client_messages=to_client.messages,
            upstream_to_client_bytes=to_client.forwarded_bytes,
            held_back_seconds=round(to_upstream.held_back_seconds + to_client.held_back_seconds, 3),
            client_close_code=end.client.code,
            upstream_close_code=end.upstream.code,
            upstream_code=self._error_code if error_was_last else None,
            detail=end.detail,
            **summary,
        )

    def _write_record(
        self, reason: str, duration_seconds: float, messages: tuple[int, int], summary: Mapping[str, object]
    ) -> None:
        if self._records is None:
            return
        record = record_of(
            self._info,
            self.spending,
            reason=reason,
            ended_at=time.time(),
            duration_seconds=duration_seconds,
            messages=messages,
            summary=summary,
        )
        self._records.write(record)
