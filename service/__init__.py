"""realtime-relay: carries the OpenAI Realtime API to clients that hold no provider key, and says why when it cannot.

The nouns, the same in code, labels, logs and documents:

client     who connects to the relay            upstream   the provider that the relay connects to
target     one upstream: its URL, credentials   dial       reaching a target, up to its first event
session    one client joined to one upstream    pipe       one direction of a session
admission  proof that a client may come in      failure    a row of the catalogue (``failures.py``)
check      one question about our health        drain      taking nobody new, letting the others finish

Directions are ``client_to_upstream`` and ``upstream_to_client``.
"""
