"""The end-to-end test's own parts, as far as they need no Prometheus."""

from itertools import pairwise

from monitoring.alerts import ALERTS
from monitoring.recording import WINDOWS
from monitoring.rule import DOCS_URL
from monitoring.rules import seconds
from service.failures import CATALOGUE
from tests.observability.causes import TRIALS
from tests.observability.pace import paced
from tests.observability.panels import substituted
from tests.observability.receiver import Told, faults_of

KEY = next(alert for alert in ALERTS if alert.name == "RelayKeyRejected")


def told(**texts: str) -> Told:
    """A message of a refused key."""
    labels = {"alertname": KEY.name, "job": "relay", "reason": "key_rejected", **KEY.labels}
    well = {
        "summary": "The key does not serve.",
        "runbook_url": f"{DOCS_URL}/failures.md#key_rejected",
        "remedy": CATALOGUE["key_rejected"].remedy,
    }
    return Told("critical", "firing", labels, well | texts, 0.0)


def test_no_window_overtakes_another() -> None:
    """The longest is over within three minutes, the shortest has five scrapes, and their order stays."""
    all_paced = [paced(seconds(window)) for window in WINDOWS]

    assert all(shorter < longer for shorter, longer in pairwise(all_paced))
    assert (5, 147) == (all_paced[0], all_paced[-1])


def test_what_is_wrong_with_a_message_is_told() -> None:
    """Templates that were not filled in, another reason's remedy, a link that leads elsewhere."""
    assert [] == faults_of(told())
    assert 1 == len(faults_of(told(summary="{{ $labels.reason }}")))
    assert 1 == len(faults_of(told(remedy=CATALOGUE["key_missing"].remedy)))
    assert 1 == len(faults_of(told(runbook_url=DOCS_URL)))


def test_grafanas_variables_are_filled_in() -> None:
    """None is left in a query."""
    query = 'rate(x{namespace=~"$namespace", job=~"$job", instance=~"$instance"}[$__rate_interval]) / y[$__range]'

    assert 'rate(x{namespace=~".*", job=~"a|b", instance=~".*"}[6s]) / y[90s]' == substituted(query, "a|b", 90)


def test_trials_have_their_promise() -> None:
    """Each says in a sentence what is done to the relay."""
    assert all((trial.__doc__ or "").rstrip().endswith(".") for trial in TRIALS)
