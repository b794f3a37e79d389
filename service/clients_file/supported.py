"""What the format of the clients file has, and this version does not enforce yet."""

from typing import Final

NOT_SUPPORTED_YET: Final = frozenset({
    "policies", "policy",
})  # fmt: skip
"""Keys of the clients file, at any place. They are checked, and a file that has one is refused: a limit that does not hold
must not look as if it did. The change that enforces one removes its name here."""
