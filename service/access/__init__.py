"""Rules of admission: tokens, origins, and limits. No sockets, no HTTP."""
