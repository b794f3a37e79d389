"""service/realtime/redaction.py."""

import ast
import base64
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.redaction import REDACTED, KnownSecrets, redact, redact_json

KEY: Final = "sk-proj-" + "A1b2C3d4" * 9 + "T3BlbkFJ" + "Z9y8X7w6" * 9
SERVICE: Final = Path(__file__).parents[2] / "service"
KEYWORDS: Final = ["auto", "off"]


def sentences(tree: ast.AST) -> Iterator[str]:
    """Every string constant of a module that contains a space, with docstrings and the constant parts of f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.value


@pytest.mark.parametrize("reason", CATALOGUE)
def test_catalogue_text_is_unchanged(reason: str) -> None:
    """Sentence, remedy and close text, also where a keyword of a setting is configured as a secret."""
    row = CATALOGUE[reason]

    for text in (row.sentence, row.remedy, row.close_text):
        assert text == redact(text, KEYWORDS)


@pytest.mark.parametrize("path", sorted(SERVICE.rglob("*.py")), ids=lambda path: str(path.relative_to(SERVICE)))
def test_static_text_of_the_service_is_unchanged(path: Path) -> None:
    """Sentences of settings, messages of the doctor, log messages and every other text in the code of the service."""
    for text in sentences(ast.parse(path.read_text())):
        assert text == redact(text, KEYWORDS)


@pytest.mark.parametrize(
    "text",
    [
        "Send 'Authorization: Bearer <token>'.",
        "Authorization: Bearer <client token>",
        "bearer <your-api-key>, and",
        "the subprotocol 'openai-insecure-api-key.<token>'. A token",
        '["realtime", "openai-insecure-api-key.<client token>"]',
        "?token=<token>&model=<name>",
        "?api-key=<key>",
        "as `Authorization: Bearer <token>` or after `openai-insecure-api-key.`",
        "Authorization: Bearer YOUR_API_KEY.",
        "Missing bearer or basic authentication in header",
        "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        "a Bearer token: see the documentation",
        'WWW-Authenticate: Bearer realm="realtime-relay"',
        'WWW-Authenticate: Bearer realm=\\"realtime-relay\\"',
        "Authorization: Bearer ...",
        "such as sk-proj-...",
        "OpenAI's keys begin with 'sk-' or 'ek_', project keys with `sk-proj-`.",
        "a key sk-sim-<name> chooses the scenario",
        "the built-in simulator (RELAY_UPSTREAM=auto)",
        "RELAY_UPSTREAM=simulator",
    ],
)
def test_placeholder_is_unchanged(text: str) -> None:
    """Placeholders, words of a sentence, public prefixes and keywords of settings are no secrets."""
    assert text == redact(text, KEYWORDS)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc", "abc"),
        ("Authorization: Bearer hunter2hunter2", "hunter2"),
        ("bearer Token123", "Token123"),
        ("Bearer tokens-of-mine", "tokens-of-mine"),
        ("Bearer or.something", "something"),
        ("Bearer <hunter2>", "hunter2"),
        ("Bearer <token>hunter2", "hunter2"),
        ("Bearer <token hunter2>", "<token"),
        ("Bearer your_key2", "your_key2"),
        ("Bearer ...hunter2", "hunter2"),
        ('Bearer realm=hunter2, "x"', "hunter2"),
        ("Proxy-Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("openai-insecure-api-key.xyz", "xyz"),
        ("'openai-insecure-api-key.<xyz>'", "xyz"),
        ("GET /v1/realtime?token=xyz&model=m", "xyz"),
        ("GET /v1/realtime?model=m&api-key=hunter2 HTTP/1.1", "hunter2"),
        ("?access_token=<hunter2>", "hunter2"),
        ("key sk-proj-...abcd", "abcd"),
        ("key sk-proj-****", "****"),
        ("key sk-abcd", "abcd"),
        ("key sk-sim-good", "good"),
        ("key ek_0f0f0f", "0f0f"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "c2ln"),
    ],
)
def test_credential_in_place_of_a_placeholder_is_redacted(text: str, secret: str) -> None:
    """A real credential is hidden wherever a placeholder is not, whatever its shape."""
    clean = redact(text)

    assert REDACTED in clean
    assert secret not in clean


@given(
    lead=st.sampled_from(["Bearer ", "basic  ", "openai-insecure-api-key.", "?token=", "&api_key=", "?access_token="]),
    token=st.from_regex(r"[A-Za-z0-9._~+/<>-]{16,60}", fullmatch=True),
)
def test_any_token_after_its_lead_is_redacted(lead: str, token: str) -> None:
    """No token of the length that the relay asks for is mistaken for a placeholder."""
    assert lead + REDACTED == redact(lead + token)


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-proj-" + "*" * 150 + "sQoA. You can find",
        f"Authorization: Bearer {KEY}",
        f"realtime, openai-insecure-api-key.{KEY}, x",
        "GET /v1/realtime?api-key=hunter2hunter2&model=x",
        "?token=hunter2hunter2",
    ],
)
def test_key_shape_is_redacted(text: str) -> None:
    """A key, whole or masked, in a sentence, a header or a query, is hidden; the text around it is kept."""
    clean = redact(text)

    assert REDACTED in clean
    for piece in (KEY[8:], "sQoA", "hunter2"):
        assert piece not in clean
    assert clean.split()[0].split("=")[0].split(".")[0] in text


@given(
    before=st.text(max_size=50),
    secret=st.text("abcdefXYZ0123456789_-", min_size=17, max_size=60),
    after=st.text(max_size=50),
)
def test_known_secret_is_redacted_in_any_text(before: str, secret: str, after: str) -> None:
    """Neither the secret nor its tail survives, whatever the text around it."""
    clean = redact(f"{before} {secret} {after}", [secret])

    assert secret not in clean
    assert secret[-8:] not in clean.replace(before, "").replace(after, "") or secret[-8:] in REDACTED


@given(st.text(max_size=300))
def test_redaction_is_idempotent(text: str) -> None:
    """A second redaction changes nothing."""
    once = redact(text)

    assert once == redact(once)


@pytest.mark.parametrize(
    "text",
    [
        "sk-" * 100_000 + "bearer " * 50_000 + "?token" * 50_000,
        "bearer <token" + " token" * 100_000,
        "bearer token" + "." * 300_000 + "x",
        "sk-proj-" + "." * 300_000 + "x",
    ],
    ids=["prefixes", "placeholder", "word", "ellipsis"],
)
def test_redaction_time_is_linear(text: str) -> None:
    """A megabyte of almost-secrets takes less than 5 s of CPU."""
    started = time.process_time()
    redact(text)

    assert time.process_time() - started < 5


def test_words_at_the_ends_of_a_known_secret_are_kept() -> None:
    """A word at the head or tail of a token is not hidden in other texts; an end that is no word is."""
    token = "realtime-client-token-12x4"

    assert "gpt-realtime /v1/realtime" == redact("gpt-realtime /v1/realtime", [token])
    assert "token-12x4" not in redact("it ends in token-12x4", [token])
    assert "key_rejected" == redact("key_rejected", ["sk-sim-key-rejected"])


SECRETS: Final = st.lists(st.text("abAB12-_ ", min_size=4, max_size=24), min_size=20, max_size=60)


@given(SECRETS, st.lists(st.text("abAB12-_ :", max_size=30), max_size=8), st.randoms(use_true_random=False))
def test_many_secrets_are_found_as_few_are(secrets: list[str], words: list[str], random: Random) -> None:
    """The index misses nothing that a search for each secret finds."""
    parts = [*words, random.choice(secrets), random.choice(secrets)[:8], random.choice(secrets)[-8:]]
    random.shuffle(parts)
    text = random.choice(["", " ", "="]).join(parts)
    by_search = [secret for secret in secrets if redact(text, [secret]) != redact(text)]
    redacted = KnownSecrets(secrets).redact(text)

    assert (redacted != redact(text)) == bool(by_search)
    for secret in by_search:
        assert secret not in redacted


@pytest.mark.parametrize("others", [0, 30], ids=["few", "many"])
def test_secret_that_begins_with_another_is_redacted_whole(others: int) -> None:
    """In whatever order they are configured."""
    pair = ["q7-voice9", "q7-voice9-tail55"]
    more = [f"other{number:02d}-token" for number in range(others)]
    for secrets in ([*pair, *more], [*reversed(pair), *more]):
        assert KnownSecrets(secrets).redact(f"sent {pair[1]}.") == f"sent {REDACTED}."


def test_cost_hardly_grows_with_the_number_of_secrets() -> None:
    """Compared as work: the number of secrets that a text is searched for."""
    secrets = [f"{number:06x}Zq" + "x9Y8" * 8 + f"Kw{number:06x}" for number in range(2000)]
    known = KnownSecrets(secrets)
    text = "The client sends no token; a token-shaped word is abcdEFGH0123456789abcdEFGH0123456789."

    assert [] == list(known._candidates(text))
    assert [secrets[7]] == list(known._candidates(text + "=" + secrets[7]))[:1]
    assert "[redacted]" in known.redact(secrets[1234][:8])


@pytest.mark.parametrize("head", ['{"alg"', '{ "alg"', '{\n  "alg"', '{\r\n"alg"', '{\t"alg"'])
def test_jwt_is_a_shape_however_its_header_is_written(head: str) -> None:
    """A header can begin with white space; a name of three words is none."""
    encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (
        f'{head}: "RS256"}}'.encode(), b'{\n"sub": "CANARY"}', b"\x9c" * 64
    )]  # fmt: skip
    token = ".".join(encoded)

    assert f"token {REDACTED}, and" == redact(f"token {token}, and")
    assert "eyes.of-the-world.example.com" == redact("eyes.of-the-world.example.com")


def test_key_in_escapes_is_redacted_where_the_text_is_too_intricate_to_be_parsed() -> None:
    """Its escapes are read without a parser."""
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    payload = b'{"a":[0%b],"b":"%b"}' % (b",0" * 40_000, escaped.encode())
    redacted = redact_json(payload, KnownSecrets([KEY]).redact)

    assert redacted is not None
    assert REDACTED.encode() in redacted
    assert KEY.encode() not in redacted
    assert escaped.encode() not in redacted


@pytest.mark.parametrize(
    "words", ["ew-", "ey-", "ey.", "eyJ-", "ew-aaaaaaaa.", "sk-", "bearer ", "bearer", "e-", "?token=", ".", " "]
)
@pytest.mark.parametrize("start", ["", "bearer", "ew", "sk-"])
def test_time_of_redaction_grows_with_the_length_only(start: str, words: str) -> None:
    """A text of half a million characters, as an error of upstream may be, took hours in which no session went on."""
    started = time.process_time()
    KnownSecrets([KEY]).redact(start + words * (500_000 // len(words)))

    assert time.process_time() - started < 30


@pytest.mark.parametrize("before", ["", "x ", "token-", '"'])
def test_jwt_whose_header_begins_with_white_space_is_redacted(before: str) -> None:
    """At the start of a word, and behind a hyphen."""
    header, body, signature = (
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b'{\n "alg":"HS256"}', b'{"sub":"a"}', b"s" * 32)
    )
    token = f"{header}.{body}.{signature}"

    assert body not in redact(f"{before}{token}")
    assert signature not in redact(f"{before}{token}")
