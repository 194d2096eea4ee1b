"""The command line as a user runs it: a process of its own."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

#: imported once, by the process of which each command is a copy: opening them takes longer than most commands do
HEAVY = ["torch", "transformers", "sentence_transformers", "pyterrier_expandr.cli.commands"]


def expandr(*arguments, status=0):
    """What a command prints, to stderr if it is to fail with `status`."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(HEAVY)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = server.Process(target=_run, args=(list(map(str, arguments)), environment, os.getcwd(), out, err))
        command.start()
        command.join()
        printed, said = out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
    assert command.exitcode == status, said[-2000:]
    assert "Traceback" not in said
    return printed if status == 0 else said


def _run(arguments, environment, folder, out, err):
    """The command itself, with the test's environment, folder and files for what it prints."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["expandr", *arguments]

    from pyterrier_expandr.cli import main

    main()
