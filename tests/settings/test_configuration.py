"""service/configuration.py: from the settings to the configuration of each room."""

import pytest

from service import configuration
from service.settings import load_settings
from service.upstream.target import Target
from tests.settings.environments import KEY, TOKEN

SIMULATOR = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("environ", "needed", "replaces"),
    [
        ({}, False, False),
        ({"RELAY_UPSTREAM": "simulator", "OPENAI_API_KEY": KEY}, True, False),
        ({"RELAY_UPSTREAM": "auto"}, True, True),
        ({"RELAY_UPSTREAM": "auto", "OPENAI_API_KEY": KEY}, False, False),
    ],
)
def test_simulator_is_used_if_selected_or_if_auto_finds_no_key(
    environ: dict[str, str], needed: bool, replaces: bool
) -> None:
    """RELAY_UPSTREAM=auto with a key connects to OpenAI."""
    settings = load_settings(environ)

    assert needed == configuration.needs_simulator(settings)
    assert replaces == configuration.simulator_replaces_openai(settings)
    assert ("simulator" if needed else "openai") == configuration.upstream_label(settings)


def test_target_has_the_label_that_is_announced() -> None:
    """`upstream_label`, which metrics use before there is a target, is the label of the target."""
    for environ in ({}, {"RELAY_UPSTREAM": "simulator"}, {"OPENAI_BASE_URL": "https://gateway.example.com/v1"}):
        settings = load_settings(environ)
        url = SIMULATOR if configuration.needs_simulator(settings) else None
        assert configuration.upstream_label(settings) == configuration.target(settings, url).label


def test_simulated_target_has_a_key() -> None:
    """The simulator needs a key; without one of its own, the relay uses the key of the scenario "good"."""
    without, with_key = load_settings({}), load_settings({"OPENAI_API_KEY": KEY})

    assert configuration.SIMULATED_KEY == _key(configuration.target(without, SIMULATOR))
    assert _key(configuration.target(with_key, SIMULATOR)) == KEY
    assert configuration.target(without).key is None


def _key(target: Target) -> str:
    assert target.key is not None
    return target.key.reveal()


def test_secrets_are_the_key_the_tokens_and_the_password_of_the_proxy() -> None:
    """These are what the redaction of the log searches for."""
    environ = {
        "OPENAI_API_KEY": KEY, "RELAY_CLIENT_TOKENS": f"web:{TOKEN}", "RELAY_UPSTREAM_PROXY": "http://u:CANARY2@p:1",
    }  # fmt: skip

    assert {KEY, TOKEN, "CANARY2"} == {secret.reveal() for secret in configuration.secrets(load_settings(environ))}
