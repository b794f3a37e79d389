"""A clients file that cannot be used: every mistake is named, with its line and the remedy."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.clients import Client, ClientLimits, ClientSet, digest_of
from service.clients_file.load import ClientsFileReader
from service.clients_file.mistakes import ClientsRejected, Mistake
from service.clients_file.parse import Surroundings, parse_clients

HASH = "a" * 64
TOKEN = "CANARY-token-0123456789"
SURROUNDINGS = Surroundings(
    file="clients.toml",
    base=Client(name="", limits=ClientLimits(max_sessions=7, max_session_seconds=3900)),
    names=frozenset({"web"}),
    owned={digest_of(TOKEN): "RELAY_CLIENT_TOKENS", digest_of("operator"): "RELAY_OPERATOR_TOKEN"},
)
KIOSK = f'[clients.kiosk]\ntoken_sha256 = ["{HASH}"]\n'
ISSUER = (
    '[jwt.{}]\nissuer = "https://{}.example/"\naudience = "r"\njwks_url = "https://a.example/k"\nclient = "kiosk"\n'
)


def parse(text: str) -> ClientSet:
    """The clients of a text that names no token file."""
    return parse_clients(text, SURROUNDINGS, lambda _: [])


def mistakes_in(text: str) -> list[str]:
    """The mistakes of a text."""
    with pytest.raises(ClientsRejected) as rejected:
        parse(text)
    return [str(mistake) for mistake in rejected.value.mistakes]


BROKEN = {
    "syntax": (f"{KIOSK}max_sessions = \n", 3, "the file is not TOML: Invalid value", "Correct the line"),
    "repeated table": (f"{KIOSK}{KIOSK}", 3, "Cannot declare", "Correct the line"),
    "misspelt key": (f"{KIOSK}max_sesions = 2\n", 3, "clients.kiosk.max_sesions is unknown", "Write max_sessions"),
    "unknown table": (f"{KIOSK}[client.x]\n", 3, "client is unknown", "Write clients"),
    "client at the top": (f"{KIOSK}[web]\nmax_sessions = 2\n", 3, "web is unknown", "Write [clients.web]"),
    "token in clear": (f'{KIOSK}token = "secret"\n', 3, "clients.kiosk.token is unknown", "Write token_sha256"),
    "typographic quotes": (f"{KIOSK}policy = \u201cx\u201d\n", 3, "not TOML: Invalid value", "in straight double quotes"),
    "wrong type": (f'{KIOSK}max_sessions = "2"\n', 3, "max_sessions is a string", "Write a whole number from 1"),
    "zero": (f"{KIOSK}starts_per_minute = 0\n", 3, "starts_per_minute is 0", "enabled = false refuses a client"),
    "price without a budget": (
        f"{KIOSK}tokens_per_day = 5\nunpriced_usd_per_minute = 1\nunpriced_usd_per_million_tokens = 1\n",
        4,
        "clients.kiosk.unpriced_usd_per_minute has no effect: it is a price for a budget in USD, and there is none",
        "Add a budget such as usd_per_day, or remove the price",
    ),
    "price without a budget in defaults": (
        f"[defaults]\nunpriced_usd_per_minute = 1\n{KIOSK}", 2, "defaults.unpriced_usd_per_minute has no effect", "Add a"
    ),
    "one price of two": (
        f"{KIOSK}usd_per_day = 5\nunpriced_usd_per_minute = 1\n",
        4,
        "has no effect without unpriced_usd_per_million_tokens",
        "Set unpriced_usd_per_million_tokens as well",
    ),
    "token in place of its hash": (
        f'[clients.kiosk]\ntoken_sha256 = [\n  "{HASH}",\n  "{TOKEN}",\n]\n',
        4,
        "token_sha256[1] is a string of 23 characters, not a SHA-256",
        "Write 64 hex digits; 'python -m service token' makes a token",
    ),
    "hash of nothing": (
        f'[clients.kiosk]\ntoken_sha256 = ["{digest_of("")}"]\n', 2, "is the SHA-256 of an empty text", "Write the hash"
    ),
    "one hash at two clients": (
        f'{KIOSK}[clients.other]\ntoken_sha256 = ["{HASH.upper()}"]\n',
        4,
        "clients.other.token_sha256[0] is a token that client kiosk has as well",
        "Give each client tokens of its own",
    ),
    "name in both sources": (
        f'[clients.web]\ntoken_sha256 = ["{HASH}"]\n', 1, "is also a name in RELAY_CLIENT_TOKENS", "Rename the client"
    ),
    "token in both sources": (
        f'[clients.kiosk]\ntoken_sha256 = ["{digest_of(TOKEN)}"]\n',
        2,
        "is a token that RELAY_CLIENT_TOKENS has as well",
        "Give each client",
    ),
    "token of the operator": (
        f'[clients.kiosk]\ntoken_sha256 = ["{digest_of("operator")}"]\n', 2, "RELAY_OPERATOR_TOKEN has as well", "Give each"
    ),
    "no client": ("[defaults]\nmax_sessions = 2\n", 1, "the file declares no client", "Add a table [clients.NAME]"),
    "no credential": ("\n[clients.kiosk]\n", 2, "clients.kiosk has no credential", "Add token_sha256"),
    "bad name": (f'[clients."a b"]\ntoken_sha256 = ["{HASH}"]\n', 1, "is not a name that logs can show", "Use up to 40"),
    "reserved name": (f'[clients.anybody]\ntoken_sha256 = ["{HASH}"]\n', 1, "clients without a token", "Rename it"),
    "client that is no table": ("[clients]\nkiosk = 1\n", 2, "clients.kiosk is 1, not a table", "[clients.kiosk]"),
    "origin with a path": (
        f'{KIOSK}origins = ["https://app.example.com/x"]\n', 3, "which is no origin", "Write scheme://host[:port]"
    ),
    "unknown API": (f'{KIOSK}apis = ["sip"]\n', 3, 'apis[0] is "sip"', 'Write "realtime", "translation" or "live"'),
    "empty list": (f"{KIOSK}models = []\n", 3, "models is an empty array", "Write an array with at least one item"),
    "unknown policy": (f'{KIOSK}policy = "kios"\n', 3, "which no table [policies.NAME] declares", "Add it"),
    "policy named none": (f"{KIOSK}[policies.none]\n", 3, "is what a client without a policy names", "Rename it"),
    "locked field that is none": (
        f'{KIOSK}[policies.p]\nlocked = ["speed"]\n', 4, 'policies.p.locked[0] is "speed"', 'Write "instructions"'
    ),
    "tool without a name": (
        f'{KIOSK}[[policies.p.tools]]\ntype = "function"\n', 3, "policies.p.tools[0] has no name", "Write an array"
    ),
    "USD below a millionth": (f"{KIOSK}usd_per_day = 0.0000001\n", 3, "usd_per_day is 1E-7", "at most six decimals"),
    "USD that is infinite": (f"{KIOSK}usd_per_day = inf\n", 3, "usd_per_day is Infinity", "Write an amount in USD"),
    "algorithm none": (
        f'{KIOSK}[jwt.app]\nissuer = "https://x.example"\naudience = "r"\nclient = "x"\n\nalgorithms = ["RS256", "none"]\n',
        8,
        "which accepts tokens without a signature",
        'Write "RS256"',
    ),
    "HMAC": (f'{KIOSK}[jwt.app]\nalgorithms = ["HS256"]\n', 4, "needs a secret that both sides know", 'Write "RS256"'),
    "keys over http": (f'{KIOSK}[jwt.app]\njwks_url = "http://x.example/"\n', 4, "begins with http://", "https:// URL"),
    "issuer without client": (f"{KIOSK}[jwt.app]\n", 3, "jwt.app has no client", 'Add it, for example client = "kiosk"'),
    "client of two issuers": (
        f"{KIOSK}{ISSUER.format('a', 'a')}{ISSUER.format('b', 'b')}", 12, "jwt.b.client is the client of another issuer",
        "Give each issuer a client of its own",
    ),
    "issuer and audience of another table": (
        f"{KIOSK}{ISSUER.format('a', 'a')}{ISSUER.format('b', 'a')}", 8, "jwt.b has issuer and audience of another",
        "one table",
    ),
    "number of 5000 digits": (f"{KIOSK}max_sessions = {'9' * 5000}\n", None, "a number that is too long", "Correct it"),
    "key of many parts": (f"{KIOSK}[{'a.' * 100_000}a]\n", 3, "a key of more than 32 parts", "Correct the line"),
    "key of many quoted parts": (f"""{KIOSK}x = {{ {"'a.b' . " * 20_000}b = 1 }}\n""", 3, "a key of more than 32 parts", "C"),
    "deep nesting": (f"x = {'[' * 5000}{']' * 5000}\n", None, "nested too deep", "Correct it"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_mistake_has_line_sentence_and_remedy(name: str) -> None:
    """Each broken file, by its first mistake."""
    text, line, sentence, remedy = BROKEN[name]
    place = f"clients.toml, line {line}: " if line is not None else "clients.toml: "
    found = mistakes_in(text)

    assert [mistake for mistake in found if mistake.startswith(place) and sentence in mistake and remedy in mistake], (
        found
    )
    assert "CANARY" not in str(found)


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    """Defaults, clients, and items of one array."""
    found = mistakes_in(
        f'[clients.a]\ntoken_sha256 = ["x",\n"y"]\nmax_sessions = -1\n[defaults]\nmodel = 1\n{KIOSK}enabled = 1\n'
    )

    assert [2, 3, 4, 6, 9] == [int(re.findall(r"line (\d+)", mistake)[0]) for mistake in found]


def test_client_has_its_own_values_then_defaults_then_settings() -> None:
    """All of the format, and where each value comes from."""
    kiosk, plain = parse(EVERYTHING).clients

    assert ClientLimits(
        max_sessions=2, max_session_seconds=None, starts_per_minute=30, minutes_per_day=600, tokens_per_session=200_000,
        microusd_per_session=500_000, microusd_per_day=20_000_000,
    ) == kiosk.limits  # fmt: skip
    assert ClientLimits(microusd_per_day=1_000_000, minutes_per_day=5) == kiosk.per_user
    assert ("gpt-realtime",) == kiosk.models
    assert ("https://app.example.com", "loopback") == kiosk.origins
    assert frozenset({"live"}) == kiosk.apis
    assert (True, True) == (kiosk.end_sessions, kiosk.is_from_file)
    assert (False, (), 9) == (plain.is_enabled, plain.models, plain.limits.max_sessions)
    assert (3900, None) == (plain.limits.max_session_seconds, plain.policy)


def test_policy_and_issuer_hold_what_the_file_says() -> None:
    """The policy of a client, and the issuer whose tokens are its credentials."""
    parsed = parse(EVERYTHING)
    policy, issuer = parsed.clients[0].policy, parsed.issuers[0]

    assert policy is not None
    assert ("Be brief.\n", "marin", "none", 4096) == (
        policy.instructions, policy.voice, policy.turn_detection, policy.max_output_tokens
    )  # fmt: skip
    assert ({"type": "function", "name": "f", "parameters": {"type": "object", "x": 0.5}},) == policy.tools
    assert {"instructions", "tools"} == policy.locked
    assert (("RS256", "ES256"), ("realtime-relay",), "kiosk", 60) == (
        issuer.algorithms, issuer.audiences, issuer.client, issuer.clock_skew_seconds
    )  # fmt: skip


EVERYTHING = f'''
[defaults]
max_sessions = 2
end_sessions = true
models = ["gpt-realtime"]
policy = "kiosk"
[defaults.per_user]
minutes_per_day = 5
[clients.kiosk]
token_sha256 = ["{HASH}"]
origins = ["https://App.example.com:443/", "loopback"]
apis = ["live"]
max_session_seconds = "unlimited"
starts_per_minute = 30
minutes_per_day = 600
tokens_per_session = 200_000
usd_per_session = 0.50
usd_per_day = 20
per_user.usd_per_day = 1.0
[clients.plain]
token_sha256 = ["{"b" * 64}"]
enabled = false
max_sessions = 9
models = ["*"]
policy = "none"
[policies.kiosk]
instructions = """
Be brief.
"""
voice = "marin"
max_output_tokens = 4096
turn_detection = "none"
tools = [{{ type = "function", name = "f", parameters = {{ type = "object", x = 0.5 }} }}]
locked = ["instructions", "tools"]
[jwt.app]
issuer = "https://login.example.com/"
audience = "realtime-relay"
jwks_url = "https://login.example.com/jwks.json"
client = "kiosk"
'''


WORDS = """
[ ] [[ ]] { } = , . " ' \"\"\" # \\ \\ud800 clients defaults policies jwt kiosk token_sha256 token_file max_sessions models
per_user usd_per_day tools turn_detection locked 1 0.5 inf 1e999999999999999999999 true type 1979-05-27 function algorithms
issuer policy
"""
TABLES = ["\n[clients.kiosk]\n", "\n[policies.p]\n", "\n[jwt.j]\n"]
TOML_WORDS = st.sampled_from((*WORDS.split(), " ", "\n", "\r", "\x00", "\ufeff", HASH, *TABLES))


@given(st.one_of(st.binary(), st.lists(TOML_WORDS, max_size=30).map(lambda words: "".join(words).encode("utf-8"))))
def test_any_bytes_give_clients_or_mistakes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Never another exception. Each mistake names the file, and a line within it if any."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)

    for mistake in mistakes_or_none(ClientsFileReader(path, SURROUNDINGS).load):
        assert str(mistake).startswith("clients.toml")
        assert mistake.line is None or 1 <= mistake.line <= data.count(b"\n") + 1
        assert mistake.remedy
        assert str(mistake).isprintable(), str(mistake)


def mistakes_or_none(load: Callable[[], object]) -> Sequence[Mistake]:
    """The mistakes for which a file is rejected; none for a good one."""
    try:
        load()
    except ClientsRejected as rejected:
        return rejected.mistakes or pytest.fail("rejected without a mistake")
    return ()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5,
), st.sampled_from(sorted({*re.findall(r"^(\w+) =", EVERYTHING, re.MULTILINE)})))  # fmt: skip
def test_any_value_of_a_key_gives_clients_or_mistakes(value: object, key: str) -> None:
    """Values of every type at keys of every table."""
    for table in ("clients.kiosk", "defaults", "policies.p", "jwt.j", "clients.kiosk.per_user"):
        text = f"{KIOSK if table == 'defaults' else ''}[{table}]\n{key} = {toml_of(value)}\n"
        mistakes_or_none(partial(parse, text))


def toml_of(value: object) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(c):08X}" for c in value if not "\ud800" <= c <= "\udfff") + '"'
        case list():
            return f"[{', '.join(map(toml_of, value))}]"
        case dict():
            return "{" + ", ".join(f"{toml_of(key)} = {toml_of(item)}" for key, item in value.items()) + "}"
        case None:
            return "1979-05-27"
        case _:
            return str(value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "which does not exist. Create or mount it"),
        (b"\n", "which has no token. Write one token a line"),
        (b"short", "token 1 is shorter than 16 characters"),
        (b"CANARY token with\xff-byte-0123456789", "letters, digits and"),
    ],
)
def test_token_file_that_cannot_be_used_is_a_mistake(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """At the line of token_file; its content is not repeated."""
    path = tmp_path / "clients.toml"
    path.write_text('[clients.kiosk]\n\ntoken_file = "kiosk.token"\n')
    if content is not None:
        (tmp_path / "kiosk.token").write_bytes(content)
    with pytest.raises(ClientsRejected) as rejected:
        ClientsFileReader(path, SURROUNDINGS).load()
    (mistake,) = rejected.value.mistakes

    assert 3 == mistake.line
    assert sentence in str(mistake)
    assert "CANARY" not in str(mistake)


def test_token_file_holds_one_token_a_line(tmp_path: Path) -> None:
    """A path is relative to the clients file; each token is a credential, and known to the redaction."""
    path = tmp_path / "clients.toml"
    path.write_text('[clients.kiosk]\ntoken_file = "kiosk.token"\n')
    (tmp_path / "kiosk.token").write_text("first-token-0123456789\nsecond-token-0123456789\r\n")
    loaded = ClientsFileReader(path, SURROUNDINGS).load()
    tokens = ["first-token-0123456789", "second-token-0123456789"]

    assert {*map(digest_of, tokens)} == loaded.clients.clients[0].credentials
    assert {*tokens, *map(digest_of, tokens)} == {secret.reveal() for secret in loaded.secrets}


def test_issuer_without_the_library_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; a start exits with 2, a reload keeps the last good file."""
    monkeypatch.setitem(sys.modules, "joserfc.jws", None)
    table = (
        '[jwt.app]\nissuer = "https://x.example/"\naudience = "r"\njwks_url = "https://x.example/k"\nclient = "kiosk"\n'
    )

    (mistake,) = mistakes_in(KIOSK + table)

    assert "line 3: jwt needs the package joserfc, which is not installed" in mistake
    assert "pip install 'realtime-relay[jwt]'" in mistake
