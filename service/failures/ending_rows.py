"""The rows for the ends of open sessions; `catalogue.py` has the rules."""

from typing import Final

from service.failures.row import Blame, Level, Retry, Row, catalogue_of

_CLIENT, _OPERATOR, _PROVIDER, _NETWORK, _RELAY = (
    Blame.CLIENT,
    Blame.OPERATOR,
    Blame.PROVIDER,
    Blame.NETWORK,
    Blame.RELAY,
)
_NEVER, _NOW, _LATER = Retry.NEVER, Retry.NOW, Retry.LATER
_INFO, _WARNING, _ERROR = Level.INFO, Level.WARNING, Level.ERROR

# fmt: off
ENDINGS: Final = catalogue_of(
    Row("client_closed", "clients", Blame.NONE, None, None, _NOW, _INFO,
        "The client closed the session.",
        "No action is needed."),
    Row("client_lost", "clients", _NETWORK, None, None, _NOW, _INFO,
        "The connection to the client was lost.",
        "No action is needed for a single case. For many, check the network and the proxy in front of the relay."),
    Row("client_too_slow", "clients", _CLIENT, None, 1008, _NOW, _WARNING,
        "The client did not read from its connection for too long.",
        "Read from the socket continuously, and move slow work such as audio playback out of the read loop.",
        "Find the client by the log fields client and address, and check its network. Its program has to read from the "
        "socket continuously."),
    Row("client_protocol_error", "clients", _CLIENT, None, 1002, _NEVER, _WARNING,
        "The client violated the WebSocket protocol.",
        "Use a WebSocket library that complies with RFC 6455, and no extension that was not negotiated.",
        "Find the client by the log fields client and address, and update its WebSocket library. If many clients are "
        "affected, check the proxy in front of the relay."),
    Row("message_too_big", "clients", _CLIENT, None, 1009, _NEVER, _WARNING,
        "A message exceeded the relay's size limit.",
        "Send audio in chunks of at most one second, and shrink or compress pictures; base64 adds a third to their size. "
        "Operator: the limit is RELAY_MAX_MESSAGE_BYTES.",
        "Find the client by the log fields client and address. If it needs messages of this size, raise "
        "RELAY_MAX_MESSAGE_BYTES and restart the relay. Otherwise correct the client."),
    Row("upstream_message_too_big", "provider", _OPERATOR, None, 1011, _LATER, _WARNING,
        "A message of the provider exceeded the relay's size limit.",
        "Raise RELAY_MAX_MESSAGE_BYTES and restart the relay. The client's own messages are not the cause."),
    Row("provider_size_limit", "provider", _CLIENT, None, None, _NEVER, _WARNING,
        "The provider closed the session because a message exceeded its size limit.",
        "Send audio in chunks of at most one second, and shrink or compress pictures before they are sent. "
        "RELAY_MAX_MESSAGE_BYTES does not change the provider's limit.",
        "Find the client by the log fields client and address, and make it send smaller audio chunks or pictures. "
        "RELAY_MAX_MESSAGE_BYTES does not change the provider's limit."),
    Row("rate_exceeded", "clients", _CLIENT, None, 1008, _LATER, _WARNING,
        "The client exceeded the relay's rate limit for messages or bytes.",
        "Send audio in real time, in chunks of 20 to 100 ms. Operator: the limits are RELAY_MAX_MESSAGES_PER_SECOND and "
        "RELAY_MAX_BYTES_PER_SECOND.",
        "Find the client by the log fields client and address. If it needs this rate, raise RELAY_MAX_MESSAGES_PER_SECOND "
        "or RELAY_MAX_BYTES_PER_SECOND and restart the relay. Otherwise correct the client."),
    Row("idle_timeout", "clients", _CLIENT, None, 1001, _NOW, _INFO,
        "Neither side sent a message within the idle timeout.",
        "Connect again when there is something to send, or raise RELAY_IDLE_TIMEOUT_SECONDS.",
        "Raise RELAY_IDLE_TIMEOUT_SECONDS and restart the relay if sessions have to stay open without messages."),
    Row("max_duration", "relay", _OPERATOR, None, 1001, _NOW, _INFO,
        "The session reached the relay's maximum duration.",
        "Connect again, or raise RELAY_MAX_SESSION_SECONDS.",
        "If sessions have to last longer, raise RELAY_MAX_SESSION_SECONDS, for those with continuity "
        "RELAY_CONTINUITY_MAX_SECONDS, and restart the relay, or raise max_session_seconds of the client in "
        "RELAY_CLIENTS_FILE."),
    Row("ended_by_operator", "relay", _OPERATOR, None, 1001, _NEVER, _INFO,
        "The operator of the relay ended the session.",
        "Ask the operator of the relay before you connect again.",
        "No action is needed. The log event console.session_ended names the address that asked for it."),
    Row("upstream_closed", "provider", _PROVIDER, None, None, _NOW, _INFO,
        "The provider closed the session.",
        "Check the provider's close code and the error event before it."),
    Row("upstream_lost", "network", _NETWORK, None, 1011, _NOW, _WARNING,
        "The connection to the provider was lost.",
        "Connect again and recreate the conversation.",
        "Check for a firewall, NAT gateway or proxy that cuts long connections between the relay and the provider. Then "
        "check https://status.openai.com."),
    Row("upstream_too_slow", "provider", _PROVIDER, None, 1011, _NOW, _WARNING,
        "The provider did not read from its connection for too long.",
        "Connect again. If it persists, check https://status.openai.com.",
        "Check the bandwidth from the relay to the provider, and https://status.openai.com."),
    Row("upstream_protocol_error", "provider", _PROVIDER, None, 1011, _NOW, _ERROR,
        "The provider violated the WebSocket protocol, or the relay's limits on frames and error events.",
        "Connect again. If it persists, check for a proxy that modifies WebSocket frames.",
        "See the log field detail. Check for a proxy that modifies WebSocket frames between the relay and the provider."),
    Row("session_expired", "provider", _PROVIDER, None, 1001, _NOW, _INFO,
        "The session reached the provider's maximum duration.",
        "Connect again and recreate the conversation. The provider ends every session after a fixed time.",
        "No action is needed. The provider ends every session after a fixed time."),
    Row("no_input_audio", "clients", _CLIENT, None, None, _NOW, _WARNING,
        "The provider ended the session because no input audio arrived.",
        "Send session.input_audio.append continuously, silence included: the provider ends a session without input "
        "audio after about 31 seconds.",
        "Find the client by the log fields client and address, and check its microphone and its audio loop. It has to send "
        "audio from the start, silence included."),
    Row("content_filtered", "provider", _CLIENT, None, None, _NOW, _WARNING,
        "The provider's content filter ended the session.",
        "Check what was said against the provider's usage policies, then start a new session.",
        "No action is needed for a single case. For many, check the instructions that the clients send."),
    Row("remote_hangup", "clients", Blame.NONE, None, None, _NOW, _INFO,
        "The other party of the call hung up.",
        "No action is needed."),
    Row("internal_error", "relay", _RELAY, None, 1011, _LATER, _ERROR,
        "The relay failed because of an internal error.",
        "Retry. Report the session_id and the log lines that contain it.",
        "Report the session_id and the log lines that contain it, with the traceback of session.failed or request.failed."),
)
# fmt: on
