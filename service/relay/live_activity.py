"""When a GPT-Live session is in use. Audio does not show it: it flows in silence as well."""

from typing import Final

from service.realtime import live

_WATCHED_SERVER_TYPES: Final = live.SERVER_EVENT_TYPES - {live.OUTPUT_AUDIO, live.USAGE_UPDATED, live.INPUT_AUDIO}
_WATCHED_CLIENT_TYPES: Final = live.CLIENT_EVENT_TYPES - {live.INPUT_AUDIO}


class LiveActivity:
    """Counts the events that are neither audio nor usage. See `ResponseTimer`."""

    __slots__ = ("client_types", "close_requested", "events", "had_audio", "watched_types")

    def __init__(self) -> None:
        self.events = 0
        self.had_audio = False
        self.close_requested = False  # the client has sent `session.close`
        self.watched_types: frozenset[str] = _WATCHED_SERVER_TYPES
        self.client_types: frozenset[str] = live.CLIENT_EVENT_TYPES  # audio only until the first of it

    def event_passed(self, event_type: str) -> None:
        """Count an event of `watched_types` or `client_types`."""
        if event_type == live.INPUT_AUDIO:
            self.had_audio = True
            self.client_types = _WATCHED_CLIENT_TYPES
        else:
            self.events += 1
            self.close_requested = self.close_requested or event_type == live.SESSION_CLOSE
