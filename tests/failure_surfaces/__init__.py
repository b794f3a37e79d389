"""Every reason of the catalogue, caused over real sockets, is reported alike at every surface."""
