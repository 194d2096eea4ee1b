"""The command line inside this process: what it prints is looked at, and a process of its own would take seconds."""

import sys

import pytest

from pyterrier_expandr.cli import main


@pytest.fixture
def here(monkeypatch, capsys):
    """Runs a command and returns what it printed, to the terminal or as an error."""

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["expandr", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        printed = capsys.readouterr()
        assert (done.value.code or 0) == status, printed.err
        return printed.out if status == 0 else printed.err

    return run


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What was checked is remembered for this run alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPANDR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
