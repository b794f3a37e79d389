"""service/settings*.py and envfiles.py."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.keys import Secret
from service.settings import SETTING_NAMES, SETTINGS, Settings, SettingsRejected
from service.settings.reference import render_env_example, render_markdown, render_text

KEY = "sk-proj-CANARY0key1234567890abcdef"
TOKEN = "CANARY1token-abcdefghijklmnop"


def problems(**environ: str) -> dict[str, str]:
    """The mistakes in an environment, by variable."""
    with pytest.raises(SettingsRejected) as caught:
        Settings.load(environ)
    return {problem.variable: str(problem) for problem in caught.value.problems}


def warnings(environ: Mapping[str, str], directory: Path | None = None) -> dict[str, str]:
    """The warnings of an environment, by variable."""
    return {warning.variable: warning.sentence for warning in Settings.load(environ, directory).warnings}


def test_defaults_are_those_that_are_declared() -> None:
    """The dataclass and the declaration agree, and nothing has to be set."""
    declared = {
        setting.field: setting.parser(setting.default) for setting in SETTINGS if setting.default not in {None, ""}
    }
    loaded = Settings.load({})

    assert declared.items() <= dataclasses.asdict(loaded).items()
    assert dataclasses.replace(loaded, origins={}) == Settings()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_every_example_is_accepted(setting: object) -> None:
    """The example that an error message gives is itself no error."""
    assert setting.parser(setting.example) is not None  # type: ignore[attr-defined]  # the parameter is a Setting


def test_all_mistakes_are_reported_together() -> None:
    """Each mistake has its variable, its value, what is accepted and an example; a secret's value is hidden."""
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
        == "RELAY_PORT='70000': expected 0 to 65535; 0 takes any free port; for example RELAY_PORT=8080"
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
def test_base_urls(given_url: str, accepted: str | None) -> None:
    """URLs as the SDKs take them; clear text goes to loopback only, credentials and queries are no part of it."""
    if accepted is None:
        assert set(problems(OPENAI_BASE_URL=given_url)) == {"OPENAI_BASE_URL"}
    else:
        assert Settings.load({"OPENAI_BASE_URL": given_url}).openai_base_url == accepted


def test_access_is_safe_by_default() -> None:
    """Open on loopback; elsewhere tokens are asked for, unless somebody says twice that he wants it open."""
    assert Settings.load({}).access == "open"
    assert set(problems(RELAY_HOST="0.0.0.0")) == {"RELAY_CLIENT_TOKENS"}
    assert set(problems(RELAY_HOST="0.0.0.0", RELAY_ACCESS="open")) == {"RELAY_ACCESS"}
    assert Settings.load({"RELAY_HOST": "0.0.0.0", "RELAY_CLIENT_TOKENS": TOKEN}).access == "tokens"
    both = {"RELAY_HOST": "0.0.0.0", "RELAY_ACCESS": "open", "RELAY_OPEN_ANYWHERE": "yes"}
    assert Settings.load(both).access == "open"
    assert set(problems(RELAY_PORT="9464")) == {"RELAY_INTERNAL_PORT"}


def test_tokens_have_names() -> None:
    """A token is named or numbered; two alike, blanks and quotes are refused."""
    tokens = Settings.load({"RELAY_CLIENT_TOKENS": f"web:{TOKEN}, other-{TOKEN}"}).client_tokens

    assert [("web", TOKEN), ("token-2", f"other-{TOKEN}")] == [(t.name, t.secret.reveal()) for t in tokens]
    for bad in (f"a:{TOKEN},b:{TOKEN}", f'"{TOKEN}"', "a b", ",", "n@me:abc"):
        assert "RELAY_CLIENT_TOKENS" in problems(RELAY_CLIENT_TOKENS=bad)


def test_origins_are_normalised() -> None:
    """Origins are brought into the form in which browsers send them; a path makes none."""
    loaded = Settings.load({"RELAY_ALLOWED_ORIGINS": "https://APP.example.com:443/, http://localhost:3000,*"})

    assert ("https://app.example.com", "http://localhost:3000", "*") == loaded.allowed_origins
    for bad in ("https://a.example/path", "https://a b", "https://host:0", "a.example", "https://u@host", "https://"):
        assert "RELAY_ALLOWED_ORIGINS" in problems(RELAY_ALLOWED_ORIGINS=bad)


def test_the_first_source_wins(tmp_path: Path) -> None:
    """Environment before .env.local before .env.<RELAY_ENV> before .env; what is empty is unset; parents are not read."""
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / ".env").write_text("RELAY_MODEL=from-parent\n")
    (folder / ".env").write_text("RELAY_MODEL=a\nRELAY_PORT=1001\nRELAY_MAX_DIALS=1\nRELAY_MAX_SESSIONS=1\n")
    (folder / ".env.staging").write_text("RELAY_PORT=1002\nRELAY_MAX_DIALS=2\nRELAY_MAX_SESSIONS=2\n")
    (folder / ".env.local").write_text("RELAY_MAX_DIALS=3\nRELAY_MAX_SESSIONS=3\n")
    loaded = Settings.load({"RELAY_ENV": "staging", "RELAY_MAX_SESSIONS": "4", "RELAY_MAX_DIALS": ""}, folder)

    assert ("a", 1002, 3, 4) == (loaded.model, loaded.port, loaded.max_dials, loaded.max_sessions)
    assert loaded.origins["RELAY_PORT"] == ".env.staging"
    assert Settings.load({}, tmp_path / "inner" / "nowhere").model == "gpt-realtime"


def test_odd_files_are_read_or_told(tmp_path: Path) -> None:
    """A byte order mark is no part of a name, a dollar sign no reference, quotes in a file are syntax; rubbish is told."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfOPENAI_API_KEY='sk-a$HOME-b'\nexport RELAY_MODEL=m\n")
    (tmp_path / ".env.local").write_bytes(b"RELAY_MODEL=\xff\xfe\n")
    loaded = Settings.load({}, tmp_path)

    assert loaded.openai_api_key is not None
    assert loaded.openai_api_key.reveal() == "sk-a$HOME-b"
    assert loaded.model == "m"
    assert "UTF-8" in warnings({}, tmp_path)[".env.local"]


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    """Docker makes a folder where a file to mount is missing; it is told, and the start goes on."""
    (tmp_path / ".env").mkdir()

    assert "cannot be read" in warnings({}, tmp_path)[".env"]


def test_only_the_environment_chooses_a_profile(tmp_path: Path) -> None:
    """RELAY_ENV in a file is told and not half obeyed; one that can be no part of a name is refused, however long."""
    (tmp_path / ".env").write_text("RELAY_ENV=staging\nRELAY_PORT=1001\n")
    (tmp_path / ".env.staging").write_text("RELAY_PORT=1002\n")

    assert (None, 1001) == ((loaded := Settings.load({}, tmp_path)).environment, loaded.port)
    assert "environment" in warnings({}, tmp_path)["RELAY_ENV"]
    for bad in ("x" * 300, "../etc", "a b"):
        with pytest.raises(SettingsRejected, match="RELAY_ENV"):
            Settings.load({"RELAY_ENV": bad}, tmp_path)


def test_one_mistake_is_one_problem() -> None:
    """A value that is wrong by itself does not make the rules between settings speak, too."""
    assert {"RELAY_CLIENT_TOKENS"} == set(problems(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS="a b"))
    assert {"RELAY_ACCESS"} == set(problems(RELAY_ACCESS="closed", RELAY_HOST="0.0.0.0"))
    assert {"RELAY_OPEN_ANYWHERE"} == set(
        problems(RELAY_ACCESS="open", RELAY_HOST="0.0.0.0", RELAY_OPEN_ANYWHERE="certainly")
    )
    assert {"RELAY_HOST"} == set(problems(RELAY_HOST="not a host"))


def test_a_service_link_does_not_hide_a_setting(tmp_path: Path) -> None:
    """What Kubernetes sets for a Service counts as unset, so that the file below it is read."""
    (tmp_path / ".env").write_text("RELAY_PORT=9001\n")
    environ = {"RELAY_PORT": "tcp://10.0.0.1:80", "RELAY_INTERNAL_PORT": "tcp://10.0.0.2:9464"}
    loaded = Settings.load(environ, tmp_path)

    assert (9001, 9464) == (loaded.port, loaded.internal_port)
    assert {"RELAY_PORT", "RELAY_INTERNAL_PORT"} <= warnings(environ, tmp_path).keys()


def test_secrets_in_the_wrong_place_stay_hidden() -> None:
    """A key in the variable for its file, credentials or a query in a URL, a key where a word belongs: none is shown."""
    wrong_file = Settings.load({"OPENAI_API_KEY_FILE": KEY})
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


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """A secret's file is read whole but for its last line feed; an unreadable key file is told and stops nothing."""
    file, none = tmp_path / "key", tmp_path / "none"
    file.write_bytes(KEY.encode() + b"\r\n")
    loaded = Settings.load({"OPENAI_API_KEY_FILE": str(file)})
    missing = Settings.load({"OPENAI_API_KEY_FILE": str(none)})

    assert loaded.openai_api_key is not None
    assert loaded.openai_api_key.reveal() == KEY + "\r"
    assert missing.openai_api_key is None
    assert "cannot be read" in (missing.openai_api_key_problem or "")
    assert "OPENAI_API_KEY_FILE" in warnings({"OPENAI_API_KEY_FILE": str(none)})
    assert "RELAY_CLIENT_TOKENS_FILE" in problems(RELAY_CLIENT_TOKENS_FILE=str(none))
    assert "OPENAI_API_KEY and OPENAI_API_KEY_FILE" in problems(OPENAI_API_KEY=KEY, OPENAI_API_KEY_FILE=str(file))


def test_the_environment_outdoes_a_file_that_names_a_file(tmp_path: Path) -> None:
    """A key in the environment wins over OPENAI_API_KEY_FILE in .env, since files never override the environment."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY_FILE=/nowhere\n")
    loaded = Settings.load({"OPENAI_API_KEY": KEY}, tmp_path)

    assert loaded.origins["OPENAI_API_KEY"] == "environment"


@pytest.mark.parametrize("key", ["", "'quoted'", "Bearer x", "sk-...", "sk-admin-x", "\tx y"])
def test_key_problems_never_stop_the_start(key: str) -> None:
    """Whatever is wrong with the key, the settings load."""
    assert Settings.load({"OPENAI_API_KEY": key}).port == 8080


def test_odd_names_warn() -> None:
    """A misspelt name gets the nearest one; Kubernetes' service links are named as what they are; nothing stops."""
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
        }
    )

    assert "did you mean RELAY_MAX_SESSIONS" in found["RELAY_MAX_SESSION"]
    for name in ("RELAY_PORT", "RELAY_SERVICE_HOST", "RELAY_PORT_80_TCP_ADDR", "RELAY_METRICS_SERVICE_PORT_HTTP"):
        assert "enableServiceLinks" in found[name]
    assert "OPENAI_API_KEY" in found["OPENAI_KEY"]
    assert "shorter than 16" in found["RELAY_CLIENT_TOKENS"]
    assert Settings.load({"RELAY_PORT": "tcp://10.0.0.1:80"}).port == 8080


def test_secrets_of_any_bytes_compare() -> None:
    """What the environment holds need not be UTF-8; comparing it is no error."""
    odd = Secret("sk-\udcff")

    assert odd == Secret("sk-\udcff")
    assert odd != Secret("sk-\udcfe")


def test_secrets_show_nowhere() -> None:
    """Neither the settings' repr nor their summary nor a warning holds a secret."""
    loaded = Settings.load({"OPENAI_API_KEY": KEY, "RELAY_CLIENT_TOKENS": TOKEN, "OPENAI_KEY": KEY, "RELAY_MODEL": "m"})

    assert "CANARY" not in f"{loaded!r} {loaded} {loaded.summary()} {loaded.warnings}"
    assert loaded.summary() == {"RELAY_MODEL": "m"}


SECRET_NAMES = ("OPENAI_API_KEY", "RELAY_CLIENT_TOKENS")
values = st.one_of(
    st.text(max_size=30), st.sampled_from(["0", "-1", "nan", "1e999", "*", ",", ":", "http://[", "tcp://x", "\x00"])
)


@given(st.dictionaries(st.sampled_from(sorted(SETTING_NAMES)), values, max_size=8))
def test_any_values_are_taken_or_refused(environ: dict[str, str]) -> None:
    """Whatever is set, the settings load or are refused with reasons; nothing else escapes, nor does a secret."""
    secret = {name: "CANARY" + value for name, value in environ.items() if name.startswith(SECRET_NAMES)}
    try:
        loaded = Settings.load(environ | secret)
        shown = f"{loaded!r} {loaded.warnings}"
        assert hash(loaded.openai_api_key) is not None
    except SettingsRejected as exc:
        shown = str(exc)
    assert "CANARY" not in shown


@pytest.mark.parametrize("render", [render_text, render_markdown, render_env_example])
def test_the_reference_is_complete(render: object) -> None:
    """Every setting stands in every form of the reference."""
    text = render()  # type: ignore[operator]  # the parameter is a function

    assert [] == [setting.name for setting in SETTINGS if setting.name not in text]
