"""service/settings/effect.py: settings that another one makes meaningless are a warning, at the start and in the doctor."""

from pathlib import Path

import pytest

from service.settings import load_settings
from tests.settings.environments import TOKEN
from tests.support.doctor_chain import run_provider_chain

CONTINUITY = {
    "RELAY_RENEW_AFTER_SECONDS": "600",
    "RELAY_RECOVERY_SECONDS": "10",
    "RELAY_CONTINUITY_BYTES": "2000000",
    "RELAY_CONTINUITY_AUDIO_BYTES": "70000",
    "RELAY_CONTINUITY_MAX_SECONDS": "7200",
}
CASES = [
    ({"RELAY_STORE_FAILURE": "closed"}, {"RELAY_STORE_FAILURE"}),
    ({"RELAY_STORE_FAILURE": "closed", "RELAY_STORE_URL": "memory:"}, {"RELAY_STORE_FAILURE"}),
    ({"RELAY_STORE_FAILURE": "open"}, set[str]()),  # the default: nothing is lost
    ({"RELAY_STORE_FAILURE": "closed", "RELAY_STORE_URL": "redis://127.0.0.1:1"}, set[str]()),
    ({"RELAY_CLIENT_TOKENS": TOKEN}, {"RELAY_CLIENT_TOKENS"}),
    ({"RELAY_CLIENT_TOKENS": TOKEN, "RELAY_ACCESS": "tokens"}, set[str]()),
    ({"RELAY_CLIENT_TOKENS": TOKEN, "RELAY_HOST": "0.0.0.0"}, set[str]()),
    ({"RELAY_ALLOWED_HOSTS": "a.example", "RELAY_TRUSTED_PROXIES": "127.0.0.1"}, {"RELAY_ALLOWED_HOSTS"}),
    ({"RELAY_ALLOWED_HOSTS": "a.example"}, set[str]()),
    ({"RELAY_LIVE": "off", "RELAY_LIVE_START_SECONDS": "30"}, {"RELAY_LIVE_START_SECONDS"}),
    ({"RELAY_CONTINUITY": "off"} | CONTINUITY, {*CONTINUITY}),
    (CONTINUITY, set[str]()),
    (
        {"RELAY_CONTINUITY_MAX_SECONDS": "7200", "RELAY_MAX_SESSION_SECONDS": "3900"},
        {"RELAY_CONTINUITY_MAX_SECONDS"},
    ),
]


@pytest.mark.parametrize(("environ", "names"), CASES)
def test_setting_without_effect_is_a_warning(environ: dict[str, str], names: set[str]) -> None:
    """Each names the cause; where the setting has its default, nothing is lost."""
    found = load_settings(environ).warnings
    assert names == {warning.variable for warning in found if warning.sentence.startswith("has no effect while ")}


async def test_doctor_warns_of_a_setting_without_effect(tmp_path: Path) -> None:
    """In the words of the start."""
    environ = {"RELAY_UPSTREAM": "simulator", "RELAY_STORE_FAILURE": "closed"}
    report = await run_provider_chain(environ, tmp_path)

    assert "warn" == report["settings"].status
    [warning] = load_settings(environ).warnings
    assert f"{warning.variable} {warning.sentence}." in report["settings"].notes
