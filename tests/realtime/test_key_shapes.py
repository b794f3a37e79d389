"""service/realtime/key_shapes.py: what is no key is named for what it is; a key of a compatible server is accepted."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.key_shapes import SHAPES, find_shape
from service.realtime.keys import Provider, lint

GOOD = "sk-proj-" + "A1b2C3d4" * 9 + "T3BlbkFJ" + "Z9y8X7w6" * 9
KEY_ALPHABET = string.ascii_letters + string.digits + "_-"


def encoded(text: str, times: int = 1) -> str:
    """The text in base64."""
    data = text.encode()
    for _ in range(times):
        data = base64.b64encode(data)
    return data.decode()


# The value, the code, and whether a compatible server gets it: with a warning, silently, or not at all.
MISTAKES = [
    # Azure App Service: SSWConsulting/SSW.Rules.GPT#196
    ("@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/k)", "azure_reference", "warns"),
    ("@Microsoft.AppConfiguration(Endpoint=https://x.azconfig.io; Key=k)", "azure_reference", "refused"),
    ("op://vault/item/key", "onepassword_reference", "warns"),
    ("arn:aws:secretsmanager:eu-west-1:123456789012:secret:openai-AbCdEf", "secret_reference", "warns"),
    ("{{resolve:secretsmanager:openai:SecretString:key}}", "template", "warns"),
    ("vault:secret/data/openai#OPENAI_API_KEY", "secret_reference", "warns"),  # bank-vaults
    (">>vault:secret/data/openai#OPENAI_API_KEY", "secret_reference", "warns"),
    ("ref+vault://secret/openai#/key", "secret_reference", "warns"),  # vals, helmfile
    ("secretref:openai-key", "secret_reference", "warns"),  # Azure Container Apps
    ("secretRef: openai-key", "secret_reference", "refused"),
    ("projects/my-project/secrets/openai/versions/latest", "secret_reference", "warns"),
    ("sm://my-project/openai", "secret_reference", "warns"),  # Spring Cloud GCP
    ("gcp:///openai", "secret_reference", "warns"),
    ("keyring://openai/default", "secret_reference", "warns"),
    ("!ImportValue OpenAiKey", "secret_reference", "refused"),
    ("$var:api_key", "secret_reference", "warns"),  # lancedb/lancedb#2387
    ("https://platform.openai.com/api-keys", "url", "warns"),  # continuedev/continue#10250
    ("ENC[AES256_GCM,data:abc=,iv:x,tag:y,type:str]", "encrypted", "warns"),  # sops
    ("ENC(abcdef)", "encrypted", "warns"),  # Jasypt
    ("{cipher}abcdef0123", "encrypted", "warns"),  # Spring Cloud Config
    ("encrypted:BDb7t3QkTRp2abc", "encrypted", "warns"),  # dotenvx
    ("vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==", "encrypted", "warns"),
    ("$ANSIBLE_VAULT;1.1;AES256", "encrypted", "warns"),
    ("gAAAAABmabcdefghijklmnop", "encrypted", "warns"),  # Fernet
    ("-----BEGIN PRIVATE KEY-----", "pem", "refused"),
    ("${OPENAI_API_KEY}", "template", "warns"),  # rocketride-org/rocketride-server#1105
    ("${OPENAI_API_KEY:-}", "template", "warns"),
    ("$OPENAI_API_KEY", "template", "warns"),
    ("%OPENAI_API_KEY%", "template", "warns"),
    ("$(cat /run/secrets/openai)", "template", "refused"),
    ("$(OPENAI_API_KEY)", "template", "warns"),  # Azure DevOps
    ("${{ secrets.OPENAI_API_KEY }}", "template", "refused"),
    ("{{ .Values.openai.key }}", "template", "refused"),
    ("#{OpenAI.Key}", "template", "warns"),  # Octopus
    ("__OPENAI_API_KEY__", "template", "warns"),  # replacetokens
    ("<%= openai_key %>", "template", "refused"),
    ("process.env.OPENAI_API_KEY", "code", "warns"),
    ("os.environ/OPENAI_API_KEY", "code", "warns"),  # litellm
    ("env:OPENAI_API_KEY", "code", "warns"),
    ("[object Object]", "code", "refused"),
    (f'{{"OPENAI_API_KEY":"{GOOD}"}}', "json", "warns"),  # aws/containers-roadmap#385
    (f'{{"OPENAI_API_KEY": "{GOOD}"}}', "json", "refused"),
    (f'["{GOOD}"]', "json", "warns"),
    (encoded(GOOD), "encoded", "warns"),
    (encoded(GOOD + "\n").rstrip("="), "encoded", "warns"),
    (encoded(GOOD, times=2), "encoded", "warns"),  # bank-vaults/bank-vaults#13
    (GOOD.encode().hex(), "encoded", "warns"),
    (f"{GOOD} # prod key", "comment", "refused"),  # coleam00/Archon#1271
    (f"{GOOD}   // prod", "comment", "refused"),
    (f"OPENAI_API_KEY={GOOD}", "assignment", "refused"),
    (f"export OPENAI_API_KEY={GOOD}", "assignment", "refused"),
    (f"LLM_API_KEY={GOOD}", "assignment", "warns"),
    (f"OPENAI_API_KEY: {GOOD}", "assignment", "refused"),
    (f"Authorization: Bearer {GOOD}", "assignment", "refused"),
    (f"--api-key={GOOD}", "option", "warns"),
    (f"{GOOD},{GOOD}x", "several_keys", "warns"),
    (GOOD + GOOD, "several_keys", "warns"),
    (f"{GOOD},", "trailing_punctuation", "warns"),
    ("/run/secrets/openai_api_key", "path", "warns"),
    ("file:/run/secrets/openai_api_key", "path", "warns"),
    ("~/.openai/key", "path", "warns"),
    ("C:\\keys\\openai.txt", "path", "warns"),
    ("openai.key", "path", "warns"),
    ("sk-proj-****************abcd", "masked", "refused"),
    ("secret/data/openai", "relative_path", "silent"),
    ("openai_key", "variable_name", "silent"),  # Cinnamon/kotaemon#205
    ("OPENAI_API_KEY", "variable_name", "silent"),
    ("sk-proj-", "prefix_only", "silent"),
    ("undefined", "word", "silent"),  # jas3333/GPT-Helper#26
    ("none", "word", "silent"),
    ("not-needed", "word", "silent"),
    ("key_8Tjwabcdefgh", "identifier", "silent"),  # continuedev/continue#12651
    ("org-abcdefghijkl", "identifier", "silent"),
    ("{env:OPENAI_API_KEY}", "template", "warns"),  # opencode
    ("$__file{/run/secrets/openai}", "template", "warns"),  # Grafana
    ("((openai_key))", "template", "warns"),  # Concourse
    ("%(ENV_OPENAI_API_KEY)s", "template", "warns"),  # supervisord
    (f"{GOOD}\\n", "trailing_punctuation", "warns"),
    (f"{GOOD}%0A", "trailing_punctuation", "warns"),
    ("api.openai.com", "url", "warns"),
    ("sk-xxxx", "masked", "warns"),
    ("@/run/secrets/openai", "relative_path", "silent"),  # curl
    ("/key", "relative_path", "silent"),
    ("SK-PROJ-ABCDEFGHIJKLMN", "altered_prefix", "silent"),
    ("sk_proj_abcdefghijklmn", "altered_prefix", "silent"),
    ("6f9619ff-8b86-d011-b42d-00cf4fc964ff", "uuid", "silent"),  # Bitwarden Secrets Manager
    ("id:secret", "no_token", "silent"),
]


@pytest.mark.parametrize(("value", "code", "elsewhere"), MISTAKES)
def test_value_that_is_no_key_is_named(value: str, code: str, elsewhere: str) -> None:
    """For OpenAI it is fatal. A compatible server gets what an HTTP header can carry, with a warning or silently."""
    first = lint(value)[0]

    assert (code, True) == (first.code, first.fatal)
    for problem in lint(value):
        assert problem.remedy.endswith(".")
        assert "A1b2C3d4" not in problem.sentence + problem.remedy
    for provider in ("compatible", "azure"):
        found = {problem.code: problem.fatal for problem in lint(value, provider)}
        if elsewhere == "refused":
            assert any(found.values())
        else:
            assert {"warns": {code: False}, "silent": {}}[elsewhere] == found


@pytest.mark.parametrize("value", [f' "{GOOD} # prod" ', "'op://vault/item/key'", f"{encoded(GOOD)}\n"])
def test_quotes_and_blanks_do_not_hide_the_shape(value: str) -> None:
    """They are reported besides."""
    assert find_shape(value.strip().strip("\"'")) is not None
    assert lint(value)[0].fatal


@pytest.mark.parametrize("provider", ["compatible", "azure", "simulator"])
@pytest.mark.parametrize(
    "key",
    [
        "EMPTY", "ollama", "lm-studio", "none", "no-key-required", "sk-1234", "hunter2", "my-secret-token", "key",
        "0123456789abcdef0123456789abcdef",
        "6XjVq+0/abcDEF/ghi+jklMNOpqrSTUvwx/yz==",
        "6f9619ff-8b86-d011-b42d-00cf4fc964ff:0123456789abcdef",  # id:secret
        "sk-ant-api03-abcdefghijklmnop", "nvapi-abcdefghijklmnop", "gsk_abcdefghijklmnop", "AIzaSyabcdefghij",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijkl",
        "user@example.org", "p@ssw0rd!", "a|b;c", "-dash-first", "_underscore", "abc=", "abc==",
    ],
)  # fmt: skip
def test_key_of_a_compatible_server_is_accepted(key: str, provider: Provider) -> None:
    """Their keys have any shape; many servers check none and take a dummy."""
    problems, shape = lint(key, provider), find_shape(key)

    assert {problem.code for problem in problems if problem.fatal} <= {"placeholder"}
    assert shape is None or shape.code not in {problem.code for problem in problems}


@given(
    prefix=st.sampled_from(["sk-", "sk-proj-", "sk-svcacct-"]), body=st.text(KEY_ALPHABET, min_size=40, max_size=164)
)
def test_no_random_key_has_a_shape(prefix: str, body: str) -> None:
    """Only a key whose random part repeats itself is taken for one that was pasted twice."""
    shape = find_shape(prefix + body)

    assert shape is None or (shape.code == "several_keys" and body.count(prefix))


@given(st.text(max_size=200))
def test_lint_accepts_any_text(text: str) -> None:
    """Nothing raises, and each problem is a sentence with a remedy."""
    for provider in ("openai", "azure", "compatible", "simulator"):
        for problem in lint(text, provider):
            assert problem.sentence.startswith(("The key", "No provider key"))
            assert problem.remedy.endswith(".")


def test_key_with_a_placeholder_word_in_its_random_part_is_accepted() -> None:
    """One key in some thousands contains 'todo', in any case."""
    assert lint("sk-proj-" + "aB3" * 20 + "ToDo" + "x9Y" * 20) == []
    assert lint("sk-TODO")[0].code == "placeholder"


def test_sentences_read_as_sentences() -> None:
    """Each row completes "The key"."""
    for shape in SHAPES:
        assert shape.sentence.endswith(".")
        assert shape.sentence.split()[0] in {"is", "begins", "ends", "holds", "contains"}
