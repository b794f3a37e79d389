"""One session: a client joined to an upstream connection."""
