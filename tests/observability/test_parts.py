"""The parts of the end-to-end test that need no Prometheus."""

from itertools import pairwise

from monitoring.alerts import ALERTS
from monitoring.recording import WINDOWS
from monitoring.rule import DOCS_URL
from monitoring.rules import seconds
from service.failures import CATALOGUE
from tests.observability.causes import SCENARIOS
from tests.observability.notifications import Notification, find_errors
from tests.observability.panels import substitute_variables
from tests.observability.time_scale import shorten

KEY_ALERT = next(alert for alert in ALERTS if alert.name == "RelayKeyRejected")


def key_notification(**texts: str) -> Notification:
    """A notification of RelayKeyRejected with some texts replaced."""
    labels = {"alertname": KEY_ALERT.name, "job": "relay", "reason": "key_rejected", **KEY_ALERT.labels}
    correct = {
        "summary": "The provider key of relay does not work.",
        "runbook_url": f"{DOCS_URL}/runbooks/key.md#key_rejected",
        "remedy": CATALOGUE["key_rejected"].remedy,
    }
    return Notification("critical", "firing", labels, correct | texts, 0.0)


def test_shortened_windows_keep_their_order() -> None:
    """The longest window is below three minutes, the shortest has five scrapes of one second."""
    shortened = [shorten(seconds(window)) for window in WINDOWS]

    assert all(shorter < longer for shorter, longer in pairwise(shortened))
    assert (5, 147) == (shortened[0], shortened[-1])


def test_errors_in_notification_are_found() -> None:
    """A template that was not expanded, the remedy of another reason, a wrong link."""
    assert [] == find_errors(key_notification())
    assert 1 == len(find_errors(key_notification(summary="{{ $labels.reason }}")))
    assert 1 == len(find_errors(key_notification(remedy=CATALOGUE["key_missing"].remedy)))
    assert 1 == len(find_errors(key_notification(runbook_url=DOCS_URL)))


def test_grafana_variables_are_substituted() -> None:
    """No variable remains in a query."""
    query = 'rate(x{namespace=~"$namespace", job=~"$job", instance=~"$instance"}[$__rate_interval]) / y[$__range]'
    substituted = substitute_variables(query, "a|b", 90)

    assert 'rate(x{namespace=~".*", job=~"a|b", instance=~".*"}[6s]) / y[90s]' == substituted


def test_scenarios_describe_their_cause() -> None:
    """The docstring of each scenario is a sentence."""
    assert all((scenario.__doc__ or "").rstrip().endswith(".") for scenario in SCENARIOS)
