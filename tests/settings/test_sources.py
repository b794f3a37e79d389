"""Where settings are read from: the environment, `.env` files, files of secrets."""

from pathlib import Path

import pytest

from service.settings import SettingsRejected, load_settings
from tests.settings.environments import KEY, problems, warnings


def test_first_source_wins(tmp_path: Path) -> None:
    """Environment, .env.local, .env.<RELAY_ENV>, .env; an empty value is unset; parent folders are not read."""
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / ".env").write_text("RELAY_MODEL=from-parent\n")
    (folder / ".env").write_text("RELAY_MODEL=a\nRELAY_PORT=1001\nRELAY_MAX_DIALS=1\nRELAY_MAX_SESSIONS=1\n")
    (folder / ".env.staging").write_text("RELAY_PORT=1002\nRELAY_MAX_DIALS=2\nRELAY_MAX_SESSIONS=2\n")
    (folder / ".env.local").write_text("RELAY_MAX_DIALS=3\nRELAY_MAX_SESSIONS=3\n")
    loaded = load_settings({"RELAY_ENV": "staging", "RELAY_MAX_SESSIONS": "4", "RELAY_MAX_DIALS": ""}, folder)

    assert ("a", 1002, 3, 4) == (loaded.model, loaded.port, loaded.max_dials, loaded.max_sessions)
    assert loaded.origins["RELAY_PORT"] == ".env.staging"
    assert load_settings({}, tmp_path / "inner" / "nowhere").model == "gpt-realtime"


def test_env_file_syntax(tmp_path: Path) -> None:
    """A byte order mark is skipped, `$` is not interpolated, quotes are removed."""
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfOPENAI_API_KEY='sk-a$HOME-b'\nexport RELAY_MODEL=m\n")
    loaded = load_settings({}, tmp_path)

    assert loaded.openai_api_key is not None
    assert loaded.openai_api_key.reveal() == "sk-a$HOME-b"
    assert loaded.model == "m"


@pytest.mark.parametrize(
    "text", ["RELAY_PORT=1001\n\n\n'stray\nRELAY_MODEL=m\n", "RELAY_PORT=1001\r\n\r\n\r\n'stray\r\nRELAY_MODEL=m"]
)
def test_unparsable_line_is_a_warning_and_is_skipped(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the file and the line; python-dotenv itself writes nothing, and the other lines are read."""
    (tmp_path / ".env").write_bytes(text.encode())
    loaded = load_settings({}, tmp_path)

    assert (1001, "m") == (loaded.port, loaded.model)
    assert {".env": "line 4 is not NAME=value and was not read; correct or remove it"} == warnings({}, tmp_path)
    assert [] == caplog.records
    assert ("", "") == capfd.readouterr()


def test_profile_is_read_from_the_environment_only(tmp_path: Path) -> None:
    """RELAY_ENV in a file is a warning and selects no file; a value that cannot be part of a file name is refused."""
    (tmp_path / ".env").write_text("RELAY_ENV=staging\nRELAY_PORT=1001\n")
    (tmp_path / ".env.staging").write_text("RELAY_PORT=1002\n")

    assert (None, 1001) == ((loaded := load_settings({}, tmp_path)).environment, loaded.port)
    assert "environment" in warnings({}, tmp_path)["RELAY_ENV"]
    for bad in ("x" * 300, "../etc", "a b"):
        with pytest.raises(SettingsRejected, match="RELAY_ENV"):
            load_settings({"RELAY_ENV": bad}, tmp_path)


def test_service_link_does_not_hide_a_setting(tmp_path: Path) -> None:
    """A variable that Kubernetes sets for a Service counts as unset, so that the file is read."""
    (tmp_path / ".env").write_text("RELAY_PORT=9001\n")
    environ = {"RELAY_PORT": "tcp://10.0.0.1:80", "RELAY_INTERNAL_PORT": "tcp://10.0.0.2:9464"}
    loaded = load_settings(environ, tmp_path)

    assert (9001, 9464) == (loaded.port, loaded.internal_port)
    assert {"RELAY_PORT", "RELAY_INTERNAL_PORT"} <= warnings(environ, tmp_path).keys()


def test_secret_is_read_from_a_file(tmp_path: Path) -> None:
    """Everything but the last line feed is the secret; a key file that cannot be read is a warning, not an error."""
    file, missing = tmp_path / "key", tmp_path / "none"
    file.write_bytes(KEY.encode() + b"\r\n")
    loaded = load_settings({"OPENAI_API_KEY_FILE": str(file)})
    keyless = load_settings({"OPENAI_API_KEY_FILE": str(missing)})

    assert loaded.openai_api_key is not None
    assert loaded.openai_api_key.reveal() == KEY + "\r"
    assert keyless.openai_api_key is None
    assert "cannot be read" in (keyless.openai_api_key_problem or "")
    assert "OPENAI_API_KEY_FILE" in warnings({"OPENAI_API_KEY_FILE": str(missing)})
    assert "RELAY_CLIENT_TOKENS_FILE" in problems(RELAY_CLIENT_TOKENS_FILE=str(missing))
    assert "OPENAI_API_KEY and OPENAI_API_KEY_FILE" in problems(OPENAI_API_KEY=KEY, OPENAI_API_KEY_FILE=str(file))


def test_secret_in_the_environment_wins_over_a_file_named_in_an_env_file(tmp_path: Path) -> None:
    """OPENAI_API_KEY in the environment has precedence over OPENAI_API_KEY_FILE in .env."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY_FILE=/nowhere\n")
    loaded = load_settings({"OPENAI_API_KEY": KEY}, tmp_path)

    assert loaded.origins["OPENAI_API_KEY"] == "environment"
