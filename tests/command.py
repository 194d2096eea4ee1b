"""The command line as a user runs it: a process of its own."""

import os
import subprocess
import sys


def expandr(*arguments, status=0):
    command = [sys.executable, "-c", "from pyterrier_expandr.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == status, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr
