"""Runs one program and measures it; makes an environment of Python for it.

The kernel counts in a child's peak what its parent held when it was forked, so a small process of its own (this file as a program) starts
the measured one.

usage: process.py LOG one|tree COMMAND...       prints wall seconds, CPU seconds, peak resident bytes and exit code as JSON
"""

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

SAMPLE_SECONDS = 0.2
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


class Usage(NamedTuple):
    """What a program took."""

    seconds: float  # wall
    cpu: float  # user and system seconds
    peak: int  # resident bytes


def measured(command, log):
    """Wall seconds and peak resident bytes of one process; what it prints goes to the log, and shows if it fails."""
    used = usage(command, log)
    return used.seconds, used.peak


def usage(command, log):
    """What one process took; what it prints goes to the log, and shows if it fails."""
    return launch("one", command, log)


def tree_usage(command, log):
    """What a program and all processes below it took (Linux). Memory is the largest sum seen in samples, shared pages counted once, or
    the exact peak of the largest process where that is more."""
    return launch("tree", command, log)


def launch(extent, command, log):
    """Starts this file as a program that runs the command."""
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(log), extent, *map(str, command)]
    seconds, cpu, peak, code = json.loads(subprocess.run(launcher, check=True, stdout=subprocess.PIPE).stdout)
    if code != 0:
        sys.exit(f"{command[0]} ended with {code}:\n{Path(log).read_text(errors='replace')[-4000:]}")
    return Usage(seconds, cpu, peak)


def run(log, extent, command):
    """Wall seconds, CPU seconds, peak and exit code of a command."""
    tree = extent == "tree"
    if tree and ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_CHILD_SUBREAPER) failed")
    peaks, done = [0], threading.Event()
    with open(log, "wb") as sink:
        begin = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=tree)
        sampler = threading.Thread(target=sample_session, args=(child.pid, peaks, done))
        if tree:
            sampler.start()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
    if tree:
        done.set()
        sampler.join()
        reap()  # what the program left behind, such as a fork server, has become ours
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, total.ru_utime + total.ru_stime, max(peaks[0], used.ru_maxrss * 1024), child.returncode


def sample_session(session, peaks, done):
    """Keeps in `peaks[0]` the largest proportional set size of all processes of a session."""
    while not done.wait(SAMPLE_SECONDS):
        peaks[0] = max(peaks[0], sum(proportional(pid) for pid in session_members(session)))


def session_members(session):
    """Processes of a session."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                yield int(entry.name)


def proportional(pid):
    """Resident bytes of a process, shared pages divided by those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def reap():
    """Waits for the processes that fell to this one."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def environment(folder, requirements):
    """Python of a virtual environment in `folder` that has these packages; made where it is missing or has others."""
    python, done = folder / "bin/python", folder / "requirements.txt"
    if not done.exists() or done.read_text() != "\n".join(requirements):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return str(python)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], sys.argv[3:])))
