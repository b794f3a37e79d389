"""A certificate authority for the tests, and a relay that trusts it."""

import ssl

import pytest

from tests.support.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that no system trusts."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusting(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the relay in this process trust the authority, as SSL_CERT_FILE would: aiohttp creates its context at import."""
    from aiohttp import connector  # noqa: PLC0415 - internal, for this fixture only

    context = ssl.create_default_context(cafile=str(authority.bundle))
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", context)
