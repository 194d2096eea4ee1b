"""What the command line says when something is refused: one sentence and status 2; a traceback for bugs alone."""

import os
import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from pyterrier_expandr import ExpandREncoder, FaissIndex, GenerationCache
from pyterrier_expandr.cli import app, main
from pyterrier_expandr.cli.errors import mendable
from pyterrier_expandr.collections import beir_folder, pocket
from pyterrier_expandr.evaluation.results import Results


def run(code, *arguments, **environment):
    """A process that runs `code` before the command line."""
    command = [sys.executable, "-c", f"{code}\nfrom pyterrier_expandr.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, errors="replace")


@contextmanager
def full_disk():
    """Room for files of 20 kB and none beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused_here(monkeypatch, capsys, *arguments):
    """What the command line says to stderr on a full disk; in this process, which has loaded what takes seconds."""
    monkeypatch.setattr(sys, "argv", ["expandr", *map(str, arguments)])
    with full_disk(), pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/root/i"), "Permission denied: '/root/i'"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("the hub cannot be reached"), "the hub cannot be reached"),
        (OSError(18, "Cross-device link", "a", None, "b"), "Cross-device link: 'a' -> 'b'"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("write error in faiss: No space left on device\nat line 3"), "No space left on device"),
        (ValueError("name one"), "name one"),
        (UnicodeEncodeError("ascii", "\u2013", 0, 1, "no"), "can't encode"),
    ],
)
def test_what_can_be_mended_is_a_sentence(error, said):
    sentence = mendable(error)
    assert said in sentence and "\n" not in sentence and "Errno" not in sentence


def test_what_a_library_made_of_it_is_seen_through():
    error = RuntimeError("cannot save")
    error.__cause__ = OSError(28, "No space left on device", "x.bin")
    assert mendable(error) == "cannot save: No space left on device: 'x.bin'"
    assert mendable(KeyError("qid")) is None and mendable(RuntimeError("odd")) is None


def test_a_bug_prints_a_traceback_and_where_to_report_it():
    bug = "import pyterrier_expandr.encoding.registry as r\ndef odd(): raise KeyError('odd')\nr.models_table = odd"
    done = run(bug, "models")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "KeyError: 'odd'" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("expandr: error: this is a bug in pyterrier_expandr")
    assert done.stderr.splitlines()[-1].endswith("issue tracker: expandr models")


def test_folders_that_nothing_can_be_written_to(tmp_path, minilm, monkeypatch, capsys):
    """The home folder that ir-datasets wants at import, and a disk on which only small files fit."""
    file = tmp_path / "file"
    file.touch()
    done = run("", "models", HOME=str(file), IR_DATASETS_HOME=str(file / "x"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"expandr: error: Not a directory: '{file}/x'"
    arguments = ["index", "--collection", "pocket", "--encoder", minilm, "--index"]
    refused = CliRunner().invoke(app, [*arguments, str(file / "i")]).exception
    assert mendable(refused).startswith(f"Not a directory: '{file}/i")
    said = refused_here(monkeypatch, capsys, *arguments, tmp_path / "i")
    assert said == "expandr: error: File too large"


def test_a_full_disk_in_merge(tmp_path, tiny_llama, monkeypatch, capsys):
    pytest.importorskip("peft")
    from tests.training.expander.test_merge import make_adapter

    adapter = make_adapter(tiny_llama, tmp_path / "adapter")
    said = refused_here(monkeypatch, capsys, "train", "merge", "--adapter", adapter, "--out", tmp_path / "out")
    assert said.startswith("expandr: error: ") and "File too large" in said and not (tmp_path / "out").exists()


def test_escape_sequences_reach_no_terminal():
    code = "import pyterrier_expandr.encoding.registry as r\ndef odd(): raise ERROR('\\x1b[2J')\nr.models_table = odd"
    for error in ("ValueError", "KeyError"):  # a sentence, and a bug
        done = run(code.replace("ERROR", error), "models")
        assert "\x1b" not in done.stderr and r"\x1b[2J" in done.stderr


def test_a_terminal_that_cannot_show_a_letter():
    code = "import pyterrier_expandr.encoding.registry as r\nr.models_table = lambda: 'a \\u2013 \\ud800'"
    done = run(code, "models", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0 and done.stdout == "a \\u2013 \\ud800\n"


class TestHome:
    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        folder = tmp_path / "home"
        folder.mkdir()
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.chdir(tmp_path)
        yield folder
        assert not (tmp_path / "~").exists()

    def test_in_python(self, home, minilm):
        assert FaissIndex("~/i").folder == home / "i"
        GenerationCache("~/c.sqlite").close()
        assert (home / "c.sqlite").is_file()
        (home / "model").symlink_to(minilm)
        encoder = ExpandREncoder("~/model", device="cpu")
        assert encoder.model_name == str(home / "model") and "sha256" in encoder.fingerprint()
        (home / "data").symlink_to(pocket().path)
        assert len(beir_folder("~/data").get_topics()) == 37
        with pytest.raises(FileNotFoundError, match=str(home)):
            Results.load("~/nothing")

    def test_on_the_command_line(self, home, minilm):
        (home / "model").symlink_to(minilm)
        (home / "data").symlink_to(pocket().path)

        def expandr(*arguments):
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, done.exception
            return done.output

        out = expandr("index", "--collection=~/data", "--encoder=~/model", "--index=~/i", "--truncate-dim=64")
        assert f"242 documents in {home}/i" in out and FaissIndex(home / "i").dim == 64
        system = "--system=E=~/model+~/data/expansions.jsonl"
        arguments = ["experiment", system, "--collection=~/data", "--out=~/out", "--indexes=~/indexes"]
        assert f"results in {home}/out" in expandr(*arguments)
        assert (home / "out" / "experiment.json").is_file()
        assert "report in" in expandr("report", "~/out", "--out=~/r.md") and (home / "r.md").is_file()
