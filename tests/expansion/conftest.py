"""Fixtures of the tests of expansion."""

import pytest


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """Neither a key nor what was learned of another test's server, which may have had the same port."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
