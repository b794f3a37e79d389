"""An authority of the tests' own, and a relay that trusts it."""

import ssl

import pytest

from tests.support.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody but these tests knows."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusting(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay in this process trusts the authority, as with SSL_CERT_FILE: aiohttp made its context at import."""
    from aiohttp import connector  # noqa: PLC0415 - its inside, for this fixture only

    context = ssl.create_default_context(cafile=str(authority.bundle))
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", context)
