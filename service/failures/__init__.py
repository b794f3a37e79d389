"""The ways in which a connection fails or a session ends: the catalogue, and the exception that carries a reason."""

from service.failures.catalogue import (
    ADMISSION_FAILURES,
    CATALOGUE,
    DIAL_FAILURES,
    ENDINGS,
    RUNBOOK_PAGES,
    START_FAILURES,
)
from service.failures.failure import Failure, Phase
from service.failures.row import Blame, Level, Retry, Row

__all__ = [
    "ADMISSION_FAILURES",
    "CATALOGUE",
    "DIAL_FAILURES",
    "ENDINGS",
    "RUNBOOK_PAGES",
    "START_FAILURES",
    "Blame",
    "Failure",
    "Level",
    "Phase",
    "Retry",
    "Row",
]
