"""The arithmetic of docs/capacity.md: what so many callers need. The manifests and the page are held against it."""

import math
from dataclasses import dataclass
from typing import Final

MICROSECONDS_A_MESSAGE: Final = 20
"""Of the processor, with TLS to the provider and hundreds of sessions (docs/benchmarks.md)."""
MESSAGES_A_SECOND: Final = 50
"""While both sides speak."""
SPEAKING: Final = 0.5
"""The share of a call in which both sides speak; real calls have less."""
PROCESS_MIB: Final = 100
SESSION_KIB: Final = 256
"""The two that service/machine.py reckons with."""
COMMANDS_MIB: Final = 32
"""For what is run in the container beside the relay: the preStop pause, a probe, doctor."""
SPARE_DESCRIPTORS: Final = 100
FILL: Final = 0.6
"""How full a pod is meant to be: the rest is for the callers of one that drains or is lost."""
FULL: Final = 1000
"""Sessions that one core carries while all speak without a pause; no pod is given more."""
LEAST_PODS: Final = 2
LEAST_MILLICORES: Final = 100
"""So that a start takes seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to set for so many callers at once."""

    callers: int
    max_sessions: int
    target: int
    pods: int
    millicores: int
    mebibytes: int
    open_files: int

    @property
    def cores(self) -> float:
        """Asked for by all pods together."""
        return self.pods * self.millicores / 1000

    @property
    def gibibytes(self) -> float:
        """Asked for by all pods together."""
        return self.pods * self.mebibytes / 1024


def plan(callers: int) -> Plan:
    """The settings for so many callers at once, so that any one pod may be lost."""
    max_sessions = min(callers, FULL)
    target = int(max_sessions * FILL)
    return Plan(
        callers=callers,
        max_sessions=max_sessions,
        target=target,
        pods=max(LEAST_PODS, math.ceil(callers / target)),
        millicores=request_millicores(target),
        mebibytes=memory_mebibytes(max_sessions),
        open_files=2 * max_sessions + SPARE_DESCRIPTORS,
    )


def sessions_a_core(speaking: float = 1) -> float:
    """How many sessions a core carries that speak so much of the time."""
    return 1_000_000 / (MICROSECONDS_A_MESSAGE * MESSAGES_A_SECOND * speaking)


def request_millicores(sessions: int) -> int:
    """What so many calls use that speak half of the time."""
    return max(LEAST_MILLICORES, math.ceil(1000 * sessions / sessions_a_core(SPEAKING)))


def memory_mebibytes(sessions: int) -> int:
    """What the relay reckons with for so many sessions, and what is run beside it, in steps of 64 MiB."""
    return 64 * math.ceil((PROCESS_MIB + COMMANDS_MIB + sessions * SESSION_KIB / 1024) / 64)
