"""service/realtime/keys.py."""

import pickle

import pytest

from service.realtime.keys import Secret, family_of, fingerprint, lint

GOOD = "sk-proj-" + "A1b2C3d4" * 9 + "T3BlbkFJ" + "Z9y8X7w6" * 9


def codes(key: str | None, provider: str = "openai") -> list[str]:
    """The codes of the problems with a key."""
    return [problem.code for problem in lint(key, provider)]  # type: ignore[arg-type]  # the parameter is a Literal


@pytest.mark.parametrize(
    "key", [GOOD, "sk-" + "a" * 20 + "T3BlbkFJ" + "b" * 20, "sk-svcacct-abcDEF123", "ek_" + "0f" * 16]
)
def test_valid_key_has_no_problem(key: str) -> None:
    """Keys of every family that can open sessions, of any length."""
    assert codes(key) == []


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "missing"),
        ("  ", "missing"),
        (f'"{GOOD}"', "quotes"),
        (f"'{GOOD}", "quotes"),
        (f"\u201c{GOOD}\u201d", "quotes"),
        (f"{GOOD}\r", "carriage_return"),
        (f"{GOOD}\r\n", "carriage_return"),
        (f"{GOOD[:20]}\n{GOOD[20:]}", "line_break"),
        (f"\ufeff{GOOD}", "byte_order_mark"),
        (f" {GOOD}", "outer_blank"),
        (f"{GOOD[:20]} {GOOD[20:]}", "inner_blank"),
        (f"Bearer {GOOD}", "bearer"),
        (f"OPENAI_API_KEY={GOOD}", "assignment"),
        ("sk-pröj-abc", "not_ascii"),
        ("sk-abc\x07def", "not_ascii"),
        ("sk-your-actual-openai-api-key-here", "placeholder"),
        ("sk-...", "placeholder"),
        ("<your key>", "placeholder"),
        ("sk-xxxxxxxxxxxxxxxx", "placeholder"),
        ("changeme", "placeholder"),
        ("sk-admin-abcdef", "admin_key"),
        ("sk-ant-api03-abcdef", "other_vendor"),
        ("xai-abcdef", "other_vendor"),
        ("sk-" + "a" * 5000, "too_long"),
    ],
)
def test_fatal_problem_is_found(key: str | None, code: str) -> None:
    """Each known mistake is fatal and has a remedy."""
    found = {problem.code: problem for problem in lint(key)}

    assert code in found
    assert found[code].fatal
    assert found[code].remedy.endswith(".")


@pytest.mark.parametrize("key", ["0123456789abcdef0123456789abcdef", "anything-goes", "sk-ant-api03-abc", "sk-admin-x"])
def test_compatible_server_accepts_any_shape(key: str) -> None:
    """The shape of a key is checked for OpenAI only."""
    assert codes(key, "compatible") == []
    assert codes(key, "azure") == []


def test_unknown_shape_is_not_fatal() -> None:
    """OpenAI may introduce keys of another shape."""
    assert [problem.fatal for problem in lint("0123456789abcdef")] == [False]


def test_fingerprint_identifies_a_key_without_its_characters() -> None:
    """Different keys have different fingerprints; no six characters of a key are in its fingerprint."""
    assert fingerprint(GOOD) != fingerprint(GOOD + "x")
    assert fingerprint(GOOD).startswith("project key, ")
    assert not [i for i in range(8, len(GOOD) - 5) if GOOD[i : i + 6] in fingerprint(GOOD)]


def test_secret_is_hidden_in_every_representation() -> None:
    """repr, str, formatting and pickling."""
    secret = Secret(GOOD)

    assert GOOD not in f"{secret} {secret!r} {secret:>20} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret(GOOD)
    assert secret != Secret("other")
    assert family_of(GOOD).name == "project key"
