"""A key or a client token that was put into a setting that is no secret: no output repeats it."""

import json
from typing import Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.keys import FAMILIES
from service.settings import SETTINGS, SettingsRejected, load_settings
from service.settings.secrecy import credentials_in, printable_value
from service.telemetry.redact import Redactor
from tests.support.command import Command
from tests.support.relay_process import run, serving

TAIL: Final = "Ab3dEf7hIj1lMn5p"
KEYS: Final = [f"{family.prefix}{TAIL}{number:02}" for number, family in enumerate(FAMILIES)]
TOKENS: Final = [
    "4e8d2c6a9b1f7350", "0c7b2f9e41d86a35b7c0e9f2a1d34b68", "q7Zr-k2Xv_9LmPt4Wc8Bd", "550e8400-e29b-41d4-a716-446655440000",
    "kiosk1Token4Berlin9x2", "r4nd0m.t0k3n.w1th.d0ts",
]  # fmt: skip
PLAIN: Final = [setting.name for setting in SETTINGS if not setting.secret]
FORMS: Final = [
    "{}", " {} ", '"{}"', "web:{}", "https://{}.example.com/v1", "https://{}@example.com", "https://example.com/?token={}",
    "https://example.com/v1#{}", "x,{}", "{}/24", "{}:8080", "Bearer {}", "tokens {}",
]  # fmt: skip
FREE_PORTS: Final = {"RELAY_PORT": "0", "RELAY_INTERNAL_PORT": "0"}
ACCEPTED: Final = {
    "RELAY_MODEL": KEYS[9], "OPENAI_ORG_ID": TOKENS[1], "OPENAI_PROJECT_ID": KEYS[10], "RELAY_ALLOWED_MODELS": TOKENS[2],
    "RELAY_ENV": TOKENS[0], "RELAY_ALLOWED_ORIGINS": f"https://{TOKENS[5]}.example",
    "RELAY_ALLOWED_HOSTS": f"{TOKENS[4]}.example",
}  # fmt: skip
"""Settings that accept a key or a token."""


def shown_by(environ: dict[str, str]) -> str:
    """All that is printed and logged of an environment at a start."""
    try:
        loaded = load_settings(environ)
    except SettingsRejected as rejected:
        return f"{rejected} {rejected.warnings}"
    redactor = Redactor(loaded.misplaced_secrets)
    return f"{loaded.warnings} {redactor(None, '', {'settings': loaded.summary(), 'origins': dict(loaded.origins)})}"


def parts(secret: str) -> list[str]:
    """What must not be shown of a secret, in lower case: its halves, but for the public prefix."""
    return [secret.lower()[: len(secret) // 2 + 4], secret.lower()[len(secret) // 2 - 2 :]]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("form", FORMS)
def test_no_setting_repeats_a_secret(name: str, form: str) -> None:
    """Keys of all families, and tokens, alone and within other text."""
    for secret in (*KEYS, *TOKENS):
        shown = shown_by({name: form.format(secret)}).lower()
        assert not [part for part in parts(secret) if part in shown], secret


@pytest.mark.parametrize("name", PLAIN)
def test_secret_that_is_set_elsewhere_is_recognised(name: str) -> None:
    """Also a token that looks like a word, if a setting for secrets holds it, too."""
    for secret in ("correct-horse-battery", "kiosk.berlin.entrance"):
        shown = shown_by(
            {name: secret, "RELAY_CLIENT_TOKENS": f"kiosk:{secret}", "RELAY_ACCESS": "tokens"} | {name: secret}
        )
        assert secret not in shown


@given(st.sampled_from(PLAIN), st.from_regex(r"[A-Za-z0-9_-]{20,43}", fullmatch=True), st.sampled_from(FAMILIES))
def test_random_key_of_any_family_is_not_repeated(name: str, tail: str, family: object) -> None:
    """Whatever its characters are."""
    key = f"{getattr(family, 'prefix', '')}{tail}"
    assert key not in shown_by({name: key})


@pytest.mark.parametrize(
    "value",
    [
        "gpt-realtime", "gpt-4o-realtime-preview-2024-12-17", "gpt-realtime-mini-2025-10-06", "qwen3-omni-30b-a3b-instruct",
        "accounts/fireworks/models/llama-v3p1-70b-instruct", "ft:gpt-4o-realtime:acme:custom:9Xy7AbCd", "pplx-7b-online",
        "https://api.openai.com/v1", "https://my-resource-eastus2.openai.azure.com/openai/v1", "sk-gateway.example.com",
        "https://gateway.ai.cloudflare.com/v1/0123456789abcdef0123456789abcdef/relay/openai", "ip-10-0-12-34.ec2.internal",
        "127.0.0.1", "2001:0db8:85a3:0000:0000:8a2e:0370:7334", "10.0.0.0/8,fd00::/8", "org-AbC123dEf456GhI789jKl012",
        "proj_AbC123dEf456GhI789jKl012", "https://app.example.com:8443", "capacitor://localhost", "staging", "1000000",
    ],
)  # fmt: skip
def test_name_is_no_credential(value: str) -> None:
    """A name that the log hid would be a loss for its reader."""
    assert [] == list(credentials_in(value))


def test_rejected_value_is_shown_where_it_is_no_secret() -> None:
    """An operator has to recognise it."""
    assert "eighty" == printable_value("eighty")
    assert "12345678901234567890" == printable_value("12345678901234567890")
    assert "RELAY_PORT='eighty'" in shown_by({"RELAY_PORT": "eighty"})


def test_accepted_secret_is_a_warning() -> None:
    """It names the variable, and what to do."""
    (warning,) = load_settings({"RELAY_MODEL": KEYS[2]}).warnings

    assert "RELAY_MODEL" == warning.variable
    assert "move it" in warning.sentence


def no_part_in(output: str, *secrets: str) -> bool:
    """Whether an output holds no half of a secret."""
    found = [part for secret in secrets for part in parts(secret) if part in output.lower()]
    return found == []


def test_start_that_fails_prints_no_secret() -> None:
    """Every setting at once, and an address that is a key: exit codes 2 and 1."""
    for number, environ in enumerate(
        (
            {name: (KEYS + TOKENS)[number % 31] for number, name in enumerate(PLAIN)},
            {"RELAY_HOST": TOKENS[1], "RELAY_OPEN_ANYWHERE": "true", "RELAY_ACCESS": "open"},
            {"RELAY_HOST": TOKENS[0]},
            {"RELAY_INTERNAL_HOST": KEYS[3]},
        )
    ):
        result = run("serve", RELAY_UPSTREAM="simulator", **environ) if number else run("serve", **environ)
        assert result.returncode in {1, 2}
        assert no_part_in(result.stdout + result.stderr, *KEYS, *TOKENS), environ


def test_commands_print_no_secret(command: Command) -> None:
    """The settings, the doctor in both formats, and a probe of a relay that does not run."""
    token_host = {"OPENAI_BASE_URL": f"https://{TOKENS[1]}.invalid/v1", "OPENAI_API_KEY": KEYS[2]}
    for words, environ in (
        (("settings",), ACCEPTED),
        (("doctor",), ACCEPTED | {"RELAY_UPSTREAM": "simulator"}),
        (("doctor", "--json"), token_host),
        (("probe", "livez"), ACCEPTED | {"RELAY_INTERNAL_HOST": TOKENS[3], "RELAY_UPSTREAM": "simulator"}),
    ):
        _, out, err = command(*words, **(FREE_PORTS | environ))
        assert out
        assert no_part_in(out + err, *KEYS, *TOKENS), out + err
    result = run("doctor", "--json", **token_host)
    assert result.stdout
    assert no_part_in(result.stdout + result.stderr, *KEYS, *TOKENS), result.stdout + result.stderr


async def test_running_relay_logs_no_secret() -> None:
    """At the start, for a client, and in the health report."""
    async with serving(**ACCEPTED) as (process, port, internal):
        assert port
        assert urlsplit(internal).port
        process.process.terminate()
        await process.rest()

    log = json.dumps(process.lines)
    assert no_part_in(log, *KEYS, *TOKENS), log
    assert "what looks like a key or token" in log
