"""The rows for GPT-Live sessions that the client does not start as it should; `catalogue.py` has the rules."""

from typing import Final

from service.failures.row import Blame, Level, Retry, Row, catalogue_of

# fmt: off
START_FAILURES: Final = catalogue_of(
    Row("start_invalid", "clients", Blame.CLIENT, None, 4000, Retry.NEVER, Level.INFO,
        "The client's message is not a valid session.start.",
        "Send session.start first: one text message with a JSON object, each key once and in plain letters, and "
        "session.model set. Nothing was sent to the provider.",
        "Find the client by the log fields client and address; detail names the mistake. Correct that client."),
    Row("start_timeout", "clients", Blame.CLIENT, None, 1008, Retry.NOW, Level.INFO,
        "The client did not send session.start in time.",
        "Send session.start as soon as the connection is open: in GPT-Live the client speaks first. Operator: the limit is "
        "RELAY_LIVE_START_SECONDS.",
        "Find the client by the log fields client and address. If it needs more time before its first message, raise "
        "RELAY_LIVE_START_SECONDS and restart the relay."),
    Row("start_repeated", "clients", Blame.CLIENT, None, None, Retry.NEVER, Level.INFO,
        "The session has started already; a second session.start was not forwarded.",
        "Send session.start once for each connection. Open another connection for another session; to change this one, send "
        "session.update.",
        "No action is needed: the session goes on. If a client does it often, correct that client."),
    Row("instructions_locked", "clients", Blame.CLIENT, None, None, Retry.NEVER, Level.INFO,
        "The instructions of this session are locked; the event was not forwarded.",
        "Send the event without instructions, without a prompt, and without messages of the roles system and developer.",
        "No action is needed: the session goes on. To let the client set them, take instructions out of locked of its policy "
        "in RELAY_CLIENTS_FILE, or of the request for its client secret."),
    Row("too_many_responses", "clients", Blame.CLIENT, None, None, Retry.NOW, Level.INFO,
        "Too many responses of this session run at once; the request for another one was not forwarded.",
        "Wait until a response has ended, then request the next one: a session with a budget runs at most four at once.",
        "No action is needed: the session goes on. A client without a budget in tokens or USD has no such limit."),
    Row("field_locked", "clients", Blame.CLIENT, None, None, Retry.NEVER, Level.INFO,
        "This field of the session is locked; the event was not forwarded.",
        "Send the event without the field that param names.",
        "No action is needed: the session goes on. To let the client set the field, take it out of locked of its policy in "
        "RELAY_CLIENTS_FILE, or of the request for its client secret."),
)
# fmt: on
