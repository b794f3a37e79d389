"""From the values of an environment to settings, or to problems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.keys import Secret
from service.settings import SETTING_NAMES, SettingsRejected, load_settings
from tests.settings.environments import KEY, TOKEN, problems, warnings


def test_problems_are_reported_together() -> None:
    """Each problem names its variable, its value, what is accepted and an example; the value of a secret is hidden."""
    found = problems(
        RELAY_PORT="70000",
        RELAY_FIRST_EVENT="maybe",
        RELAY_IDLE_TIMEOUT_SECONDS="inf",
        RELAY_OPEN_ANYWHERE="perhaps",
        RELAY_TRUSTED_PROXIES="10.0.0.0/99",
        RELAY_CLIENT_TOKENS=f"a:{TOKEN},a:{TOKEN}2",
    )

    assert set(found) == {
        "RELAY_PORT", "RELAY_FIRST_EVENT", "RELAY_IDLE_TIMEOUT_SECONDS", "RELAY_OPEN_ANYWHERE", "RELAY_TRUSTED_PROXIES",
        "RELAY_CLIENT_TOKENS",
    }  # fmt: skip
    assert (
        found["RELAY_PORT"]
        == "RELAY_PORT='70000': expected 0 to 65535; 0 selects any free port; for example RELAY_PORT=8080"
    )
    assert "CANARY" not in found["RELAY_CLIENT_TOKENS"]


@pytest.mark.parametrize(
    ("given_url", "accepted"),
    [
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("wss://eu.api.openai.com/v1", "https://eu.api.openai.com/v1"),
        ("http://localhost:9000/v1", "http://localhost:9000/v1"),
        ("ws://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://[::1]:9000/v1", "http://[::1]:9000/v1"),
        ("http://api.openai.com/v1", None),
        ("https://user:pass@host/v1", None),
        ("https://host/v1?api-key=x", None),
        ("https://host/v1#x", None),
        ("https://host/v1/realtime", None),
        ("https://host/v1/realtime/translations", None),
        ("https://a b/v1", None),
        ("https://ho\nst/v1", None),
        ("https://host:0/v1", None),
        ("https://host:port/v1", None),
        ("api.openai.com/v1", None),
        ("ftp://host/v1", None),
        ("https://", None),
    ],
)
def test_base_url(given_url: str, accepted: str | None) -> None:
    """URLs as the SDKs accept them; plain http only to loopback, and neither credentials nor queries."""
    if accepted is None:
        assert set(problems(OPENAI_BASE_URL=given_url)) == {"OPENAI_BASE_URL"}
    else:
        assert load_settings({"OPENAI_BASE_URL": given_url}).openai_base_url == accepted


def test_access_is_open_on_loopback_only() -> None:
    """Off loopback tokens are required, unless RELAY_ACCESS and RELAY_OPEN_ANYWHERE both ask for open access."""
    assert load_settings({}).access == "open"
    assert set(problems(RELAY_HOST="0.0.0.0")) == {"RELAY_CLIENT_TOKENS"}
    assert set(problems(RELAY_HOST="0.0.0.0", RELAY_ACCESS="open")) == {"RELAY_ACCESS"}
    assert load_settings({"RELAY_HOST": "0.0.0.0", "RELAY_CLIENT_TOKENS": TOKEN}).access == "tokens"
    both = {"RELAY_HOST": "0.0.0.0", "RELAY_ACCESS": "open", "RELAY_OPEN_ANYWHERE": "yes"}
    assert load_settings(both).access == "open"


def test_operator_token_is_one_long_word_and_no_clients() -> None:
    """It cannot be guessed. The line break at the end of a file is no part of it; no message repeats it."""
    loaded = load_settings({"RELAY_OPERATOR_TOKEN": f"{TOKEN}\n"}).operator_token
    assert loaded is not None
    assert TOKEN == loaded.reveal()
    for wrong in (f"{TOKEN} {TOKEN}", f"{TOKEN}\xe9", TOKEN[:15], TOKEN * 20):
        found = problems(RELAY_OPERATOR_TOKEN=wrong)
        assert {"RELAY_OPERATOR_TOKEN"} == set(found)
        assert TOKEN[:15] not in str(found)
    found = problems(RELAY_OPERATOR_TOKEN=TOKEN, RELAY_CLIENT_TOKENS=f"a:other-{TOKEN},b:{TOKEN}")
    assert {"RELAY_OPERATOR_TOKEN"} == set(found)
    assert TOKEN not in str(found)


def test_client_tokens_are_named_or_numbered() -> None:
    """Equal names or tokens, an empty list, spaces and quotes are refused."""
    tokens = load_settings({"RELAY_CLIENT_TOKENS": f"web:{TOKEN}, other-{TOKEN}"}).client_tokens

    assert [("web", TOKEN), ("token-2", f"other-{TOKEN}")] == [(t.name, t.secret.reveal()) for t in tokens]
    for bad in (f"anybody:{TOKEN}", f"a:{TOKEN},b:{TOKEN}", f'"{TOKEN}"', "a b", ",", "n@me:abc"):
        assert "RELAY_CLIENT_TOKENS" in problems(RELAY_CLIENT_TOKENS=bad)
    lines = problems(
        RELAY_CLIENT_TOKENS=f"web:{TOKEN}\napp:other-{TOKEN}\n"
    )  # as in a file of RELAY_CLIENT_TOKENS_FILE
    assert "separate entries with commas" in lines["RELAY_CLIENT_TOKENS"]


def test_origins_are_normalised() -> None:
    """Origins are stored in the form in which browsers send them; a URL with a path is not an origin."""
    loaded = load_settings({"RELAY_ALLOWED_ORIGINS": "https://APP.example.com:443/, http://localhost:3000,*"})

    assert ("https://app.example.com", "http://localhost:3000", "*") == loaded.allowed_origins
    for bad in ("https://a.example/path", "https://a b", "https://host:0", "a.example", "https://u@host", "https://"):
        assert "RELAY_ALLOWED_ORIGINS" in problems(RELAY_ALLOWED_ORIGINS=bad)


def test_rule_is_skipped_if_one_of_its_settings_is_not_accepted() -> None:
    """A value that is not accepted by itself is one problem, not two."""
    assert {"RELAY_CLIENT_TOKENS"} == set(problems(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS="a b"))
    assert {"RELAY_ACCESS"} == set(problems(RELAY_ACCESS="closed", RELAY_HOST="0.0.0.0"))
    assert {"RELAY_OPEN_ANYWHERE"} == set(
        problems(RELAY_ACCESS="open", RELAY_HOST="0.0.0.0", RELAY_OPEN_ANYWHERE="certainly")
    )
    assert {"RELAY_HOST"} == set(problems(RELAY_HOST="not a host"))
    for local in ("fe80::1", "[fe80::1]", "fe80::1%eth0", "::1%lo", "FE80:0:0:0:1:2:3:4"):
        for name in ("RELAY_HOST", "RELAY_INTERNAL_HOST"):
            assert "set another address of that interface" in problems(**{name: local})[name]
    assert "multicast" in problems(RELAY_HOST="ff02::1")["RELAY_HOST"]


@pytest.mark.parametrize("host", ["0.0.0.0:8080", "localhost:80", "1:2", "a..b", ".", "a" * 64 + ".example"])
def test_host_is_an_address_or_a_name_without_a_port(host: str) -> None:
    """What no resolver looks up is rejected with the setting's name, before anything is started."""
    assert {"RELAY_HOST", "RELAY_INTERNAL_HOST"} == set(problems(RELAY_HOST=host, RELAY_INTERNAL_HOST=host))


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"RELAY_CONSOLE": "on"}, False),
        ({"RELAY_CONSOLE": "on", "RELAY_HOST": "[::1]"}, False),
        ({"RELAY_CONSOLE": "on", "RELAY_HOST": "0.0.0.0"}, True),
        ({"RELAY_CONSOLE": "off", "RELAY_HOST": "0.0.0.0"}, False),
        ({"RELAY_CONSOLE": "on", "RELAY_TRUSTED_PROXIES": "127.0.0.1"}, True),
        ({"RELAY_CONSOLE": "on", "RELAY_HOST": "0.0.0.0", "RELAY_ALLOWED_ORIGINS": "https://a.example"}, False),
    ],
)
def test_talk_page_whose_origin_is_refused_is_a_warning(environ: dict[str, str], *, warned: bool) -> None:
    """Its calls would fail where a browser opens it, with the relay's own page to blame."""
    found = load_settings({"RELAY_CLIENT_TOKENS": TOKEN} | environ).warnings
    assert warned == any("RELAY_CONSOLE" == warning.variable for warning in found)


def test_every_form_of_the_unspecified_ipv6_address_is_a_warning() -> None:
    """A listener on it accepts no IPv4, whichever way it is written; other addresses are no warning."""
    access = {"RELAY_CLIENT_TOKENS": "a:0123456789abcdef0123"}
    for host in ("::", "[::]", "0:0:0:0:0:0:0:0", "::0", " :: "):
        assert "IPv6 connections only" in warnings({"RELAY_HOST": host} | access)["RELAY_HOST"]
    for host in ("::1", "0.0.0.0", "localhost"):
        assert "RELAY_HOST" not in warnings({"RELAY_HOST": host} | access)


@pytest.mark.parametrize("key", ["", "'quoted'", "Bearer x", "sk-...", "sk-admin-x", "\tx y"])
def test_malformed_key_does_not_stop_the_start(key: str) -> None:
    """The settings load whatever the key is; the lint of the key reports it."""
    assert load_settings({"OPENAI_API_KEY": key}).port == 8080


def test_unknown_name_is_a_warning() -> None:
    """A misspelt name comes with the most similar known one, a service link with its cause; none is an error."""
    found = warnings(
        {
            "RELAY_MAX_SESSION": "5",
            "RELAY_PORT": "tcp://10.0.0.1:80",
            "RELAY_SERVICE_HOST": "10.0.0.1",
            "RELAY_METRICS_SERVICE_PORT_HTTP": "80",
            "RELAY_PORT_80_TCP_ADDR": "10.0.0.1",
            "OPENAI_KEY": KEY,
            "SSLKEYLOGFILE": "keys.log",
            "RELAY_CLIENT_TOKENS": "short",
            "RELAY_ACCESS": "tokens",
        }
    )

    assert "did you mean RELAY_MAX_SESSIONS" in found["RELAY_MAX_SESSION"]
    for name in ("RELAY_PORT", "RELAY_SERVICE_HOST", "RELAY_PORT_80_TCP_ADDR", "RELAY_METRICS_SERVICE_PORT_HTTP"):
        assert "enableServiceLinks" in found[name]
    assert "OPENAI_API_KEY" in found["OPENAI_KEY"]
    assert "shorter than 16" in found["RELAY_CLIENT_TOKENS"]
    assert load_settings({"RELAY_PORT": "tcp://10.0.0.1:80"}).port == 8080


@pytest.mark.parametrize(
    ("environ", "hidden"),
    [
        ({"OPENAI_BASE_URL": "https://user:CANARY@h.example/v1"}, "CANARY"),
        ({"RELAY_HOST": "user:CANARY@example"}, "CANARY"),
        ({"RELAY_ALLOWED_ORIGINS": "https://a.example,https://u:CA,CANARY@b.example"}, "CANARY"),
        ({"OPENAI_BASE_URL": "https://h.example/v1#CANARY"}, "CANARY"),
        ({"OPENAI_BASE_URL": "https://h.example/v1?k=CANARY"}, "CANARY"),
        ({"\ufeffRELAY_ACCESS": "x", "RELAY_ACCESS\u200b=CANARY0123456789abcdef0123456789abcdef": "x"}, "CANARY"),
        ({"\ufeffRELAY_ACCESS": "x", "RELAY_CANARY0123456789abcdef0123456789abcdef0123456789": ""}, "CANARY"),
    ],
)
def test_message_shows_no_secret_of_a_url_or_a_name(environ: dict[str, str], hidden: str) -> None:
    """User information, query and fragment of a URL; a name that is too long to be one."""
    with pytest.raises(SettingsRejected) as caught:
        load_settings(environ)

    assert hidden not in str(caught.value)
    assert all(hidden not in f"{warning.variable} {warning.sentence}" for warning in caught.value.warnings)


@pytest.mark.parametrize(
    ("name", "intended"),
    [
        ("RELAY_ACESS", "RELAY_ACCESS"),
        ("RELAY_ACCES", "RELAY_ACCESS"),
        ("RELAYACCESS", "RELAY_ACCESS"),
        ("RELEY_ACCESS", "RELAY_ACCESS"),
        ("RElAY_CLIENT_TOKEN", "RELAY_CLIENT_TOKENS"),
        ("REALY_CLIENT_TOKENS", "RELAY_CLIENT_TOKENS"),
        ("OPENAI_APIKEY", "OPENAI_API_KEY"),
        ("OPENAI_KEY", "OPENAI_API_KEY"),
        ("OPEN_AI_API_KEY", "OPENAI_API_KEY"),
        ("openai_api_key", "OPENAI_API_KEY"),
        ("OPENAPI_KEY", "OPENAI_API_KEY"),
        ("OPENAI_APIKEY_FILE", "OPENAI_API_KEY_FILE"),
        ("OPENAI_BASEURL", "OPENAI_BASE_URL"),
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_ORGID", "OPENAI_ORG_ID"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
        ("OPENAI_PROJEKT_ID", "OPENAI_PROJECT_ID"),
    ],
)
def test_misspelt_name_names_the_nearest_setting(name: str, intended: str) -> None:
    """At a start that succeeds, and beside the mistakes of one that fails; never a reason to exit."""
    with pytest.raises(SettingsRejected) as caught:
        load_settings({name: "tokens", "RELAY_PORT": "eighty"})

    for sentence in (warnings({name: "tokens"})[name], caught.value.warnings[0].sentence):
        assert sentence.endswith(f" {intended}" if intended == "OPENAI_API_KEY" else f"did you mean {intended}?")


@pytest.mark.parametrize(
    "name", ["REDIS_URL", "OPENAI_LOG", "RAILS_ENV", "OPENAI_TIMEOUT", "REPLAY_SPEED", "AZURE_OPENAI_ENDPOINT", "PORT"]
)
def test_name_of_another_program_is_no_warning(name: str) -> None:
    """Nor is another name of a setting that is set, since other programs read it."""
    assert {} == warnings({name: "x"})
    assert {} == warnings({"OPENAI_API_KEY": KEY, "OPENAI_KEY": "x", "OPENAI_API_KEY_2": "x"})


def test_misplaced_secret_is_hidden() -> None:
    """A key in the variable for its file or in a setting that is a word, credentials and queries in a URL."""
    wrong_file = load_settings({"OPENAI_API_KEY_FILE": KEY})
    shown = f"{wrong_file.openai_api_key_problem} {wrong_file.warnings}"
    for mistake in (
        {"OPENAI_BASE_URL": "https://user:CANARY/2@host/v1"},
        {"OPENAI_BASE_URL": "https://host/v1?api-key=CANARY"},
        {"RELAY_PORT": KEY},
        {"RELAY_CLIENT_TOKENS_FILE": TOKEN},
        {"OPENAI_API_KEY": KEY, "OPENAI_API_KEY_FILE": KEY},
    ):
        shown += str(problems(**mistake))

    assert "hidden" in shown
    assert "CANARY" not in shown


def test_secrets_of_any_bytes_compare() -> None:
    """Values in the environment need not be UTF-8; comparing them is no error."""
    odd = Secret("sk-\udcff")

    assert odd == Secret("sk-\udcff")
    assert odd != Secret("sk-\udcfe")


def test_loaded_settings_show_no_secret() -> None:
    """Neither the repr nor the summary nor a warning contains a secret."""
    loaded = load_settings({"OPENAI_API_KEY": KEY, "RELAY_CLIENT_TOKENS": TOKEN, "OPENAI_KEY": KEY, "RELAY_MODEL": "m"})

    assert "CANARY" not in f"{loaded!r} {loaded} {loaded.summary()} {loaded.warnings}"
    assert loaded.summary() == {"RELAY_MODEL": "m"}


SECRET_NAMES = ("OPENAI_API_KEY", "RELAY_CLIENT_TOKENS")
values = st.one_of(
    st.text(max_size=30), st.sampled_from(["0", "-1", "nan", "1e999", "*", ",", ":", "http://[", "tcp://x", "\x00"])
)


@given(st.dictionaries(st.sampled_from(sorted(SETTING_NAMES)), values, max_size=8))
def test_any_value_is_accepted_or_rejected(environ: dict[str, str]) -> None:
    """Loading raises nothing but SettingsRejected, and shows no secret."""
    secret = {name: "CANARY" + value for name, value in environ.items() if name.startswith(SECRET_NAMES)}
    try:
        loaded = load_settings(environ | secret)
        shown = f"{loaded!r} {loaded.warnings}"
        assert hash(loaded.openai_api_key) is not None
    except SettingsRejected as exc:
        shown = str(exc)
    assert "CANARY" not in shown


@pytest.mark.parametrize(
    "environ",
    [
        {"RELAY_UPSTREAM_PROXY": "socks5://u:CANARY@127.0.0.1:1080"},
        {"RELAY_UPSTREAM_PROXY": "auto", "ALL_PROXY": "socks5h://127.0.0.1:7891"},
        {"RELAY_UPSTREAM_PROXY": "auto", "all_proxy": "socks://127.0.0.1:7891/"},  # hiyouga/LlamaFactory#8928
        {"RELAY_UPSTREAM_PROXY": "auto", "https_proxy": "SOCKS4://127.0.0.1:7891/"},
    ],
)
def test_socks_proxy_is_named(environ: dict[str, str]) -> None:
    """An HTTP proxy in another variable is used before it."""
    with pytest.raises(SettingsRejected, match="this is a SOCKS proxy, which the relay does not support") as caught:
        load_settings(environ)
    assert "CANARY" not in str(caught.value)

    if environ["RELAY_UPSTREAM_PROXY"] == "auto" and "https_proxy" not in environ:
        chosen = load_settings({**environ, "https_proxy": "http://127.0.0.1:7890/"}).proxy
        assert chosen is not None
        assert chosen.url == "http://127.0.0.1:7890"


@pytest.mark.parametrize(
    ("changed", "port", "other", "free"),
    [
        ("RELAY_PORT", "9464", "RELAY_INTERNAL_PORT", "8080"),
        ("RELAY_INTERNAL_PORT", "8080", "RELAY_PORT", "9464"),
    ],
)
def test_port_used_twice_is_reported_with_a_free_one(changed: str, port: str, other: str, free: str) -> None:
    """For the setting that has not its default: the example of the other would be the port in question."""
    expected = f"{changed}='{port}': expected a port other than {other}; for example {changed}={free}"

    assert {changed: expected} == problems(**{changed: port})


@pytest.mark.parametrize("word", ["on", "TRUE", "yes", "1", "no", "false", "0", "none"])
def test_switch_is_no_proxy(word: str) -> None:
    """Each would else be the host name of a proxy, which fails only when the relay dials."""
    (problem,) = problems(RELAY_UPSTREAM_PROXY=word).values()

    assert "auto uses HTTPS_PROXY, off no proxy" in problem
