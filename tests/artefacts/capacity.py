"""The capacity model of docs/capacity.md: settings and resources for a number of sessions."""

import math
from dataclasses import dataclass
from typing import Final

MICROSECONDS_PER_MESSAGE: Final = 20
"""CPU time with TLS to the provider and hundreds of sessions (docs/benchmarks.md)."""
MESSAGES_PER_SECOND: Final = 50
"""Of a session while both sides speak."""
SPEAKING_SHARE: Final = 0.5
"""The share of a session in which both sides speak; real sessions have less."""
PROCESS_MIB: Final = 100
SESSION_KIB: Final = 256
"""The same two values as in service/machine.py."""
COMMANDS_MIB: Final = 32
"""For commands that run beside the relay in its container: the preStop pause, a probe, the doctor."""
SPARE_DESCRIPTORS: Final = 100
TARGET_UTILIZATION: Final = 0.6
"""The target utilization of a pod; the rest is reserved for the clients of a draining or lost pod."""
MAX_SESSIONS_PER_POD: Final = 1000
"""Sessions that one core supports while both sides speak continuously; the maximum for a pod."""
MIN_PODS: Final = 2
MIN_MILLICORES: Final = 100
"""So that a pod starts within seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings and resources for a number of concurrent sessions."""

    sessions: int
    max_sessions: int
    target_sessions: int
    pods: int
    millicores: int
    mebibytes: int
    open_files: int

    @property
    def cores(self) -> float:
        """CPU requests of all pods."""
        return self.pods * self.millicores / 1000

    @property
    def gibibytes(self) -> float:
        """Memory requests of all pods."""
        return self.pods * self.mebibytes / 1024


def plan(sessions: int) -> Plan:
    """The plan for a number of concurrent sessions. The sessions still fit if one pod is lost."""
    max_sessions = min(sessions, MAX_SESSIONS_PER_POD)
    target_sessions = int(max_sessions * TARGET_UTILIZATION)
    return Plan(
        sessions=sessions,
        max_sessions=max_sessions,
        target_sessions=target_sessions,
        pods=max(MIN_PODS, math.ceil(sessions / target_sessions)),
        millicores=request_millicores(target_sessions),
        mebibytes=memory_mebibytes(max_sessions),
        open_files=2 * max_sessions + SPARE_DESCRIPTORS,
    )


def sessions_per_core(speaking: float = 1) -> float:
    """Sessions per core if both sides speak for this share of the time."""
    return 1_000_000 / (MICROSECONDS_PER_MESSAGE * MESSAGES_PER_SECOND * speaking)


def request_millicores(sessions: int) -> int:
    """The CPU request for a number of sessions in which both sides speak half of the time."""
    return max(MIN_MILLICORES, math.ceil(1000 * sessions / sessions_per_core(SPEAKING_SHARE)))


def memory_mebibytes(sessions: int) -> int:
    """The memory for the relay with a number of sessions and for commands beside it, in steps of 64 MiB."""
    return 64 * math.ceil((PROCESS_MIB + COMMANDS_MIB + sessions * SESSION_KIB / 1024) / 64)
