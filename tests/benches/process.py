"""Runs one program and measures it."""

import os
import subprocess
import sys
import time
from pathlib import Path


def measured(command, log):
    """Wall seconds and peak resident bytes of one process; what it prints goes to the log, and shows if it fails."""
    with open(log, "wb") as sink:
        begin = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
    if child.returncode != 0:
        sys.exit(f"{command[0]} ended with {child.returncode}:\n{Path(log).read_text(errors='replace')[-4000:]}")
    return seconds, usage.ru_maxrss * 1024
