"""docs/metrics.md lists every metric of the relay exactly once."""

from collections import Counter

import pytest

from monitoring import metrics_reference
from monitoring.metrics_reference import QUESTIONS, render_markdown
from service.telemetry.metrics import PREFIX, Metrics


def test_every_metric_has_one_question() -> None:
    """QUESTIONS lists each metric exactly once, and the page has its help text."""
    own = [family for family in Metrics("openai").registry.collect() if family.name.startswith(f"{PREFIX}_")]
    listed = Counter(f"{PREFIX}_{name}" for names in QUESTIONS.values() for name in names)
    text = render_markdown()

    assert {family.name: 1 for family in own} == listed
    for family in own:
        assert len(family.documentation) > 10, family.name
        assert f"| `{family.name}" in text


def test_labels_and_buckets_are_listed() -> None:
    """The page has the values of labels and the bounds of buckets."""
    text = render_markdown()

    assert "`check`: key, handshake, turn, live, store<br>`status`: pass, warn, fail, unknown" in text
    assert "Buckets: 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10." in text
    assert "`limit`: tokens, requests, other" in text


@pytest.mark.parametrize("name", ["realtime_relay_admissions", "admissions_total", "odd"])
def test_unknown_metric_is_named_with_the_spelling(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full name, a name with `_total` and a name without a metric."""
    monkeypatch.setattr(metrics_reference, "QUESTIONS", {"Which?": (name,)})

    with pytest.raises(ValueError, match=f"{name}.*without the prefix realtime_relay_ and without _total"):
        render_markdown()
