"""Every reason of the catalogue, provoked for real, and held against every surface."""
