"""realtime-relay relays OpenAI's voice APIs to clients that hold no provider key, and explains connection failures.

These terms mean the same in code, labels, logs and documents:

client     connects to the relay                    upstream   the provider's side, which the relay connects to
target     one upstream: its URL and credentials    dial       connecting to a target, up to its first event
session    one client joined to one upstream        leg        one socket of a session
pipe       one direction of a session               turn       the user's speech and the response to it
admission  the decisions made before a dial         failure    an attempt that ended for a reason
check      one health question                      drain      refuse new sessions, let open ones finish

Directions are ``client_to_upstream`` and ``upstream_to_client``. ``app.py`` builds and connects the packages.
"""
