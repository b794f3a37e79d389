"""How a target states a property."""


def require(what: str, *, holds: bool) -> None:
    """Raise AssertionError if a property does not hold."""
    if not holds:
        raise AssertionError(what)
