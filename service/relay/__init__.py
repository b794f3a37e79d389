"""Sessions: one client connection joined to one upstream connection, and the drain of all of them."""
