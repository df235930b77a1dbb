"""What a command and all processes that it starts cost: seconds, CPU seconds, memory, their number. Linux only.

The measuring process becomes the parent of orphans, such as the JVM that outlives PySpark's Python, so that the kernel
tells it what each of them has used.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

PR_SET_CHILD_SUBREAPER = 36
SAMPLES_PER_SECOND = 10
PAGE = os.sysconf("SC_PAGE_SIZE")
STRACE = ("strace", "-f", "-q", "--seccomp-bpf", "-e", "trace=execve,execveat", "-o")


class Cost(NamedTuple):
    """What a run has cost."""

    code: int  # its exit code; negative: the signal that ended it
    seconds: float  # until the command ended
    cpu: float  # seconds in user and system mode, of all its processes
    peak: int  # bytes of resident memory, the sum over the processes, sampled
    out: str
    err: str

    def tail(self, lines: int = 15) -> str:
        """The last lines of what a failed run has said."""
        said = [line for line in (self.out + "\n" + self.err).splitlines() if line.strip()]
        return "\n".join(said[-lines:])


def adopt_orphans() -> None:
    """Let processes whose parent ends become children of this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the parent of orphans")


def run(command: Sequence[str], env: Mapping[str, str], folder: Path, timeout: float) -> Cost:
    """Run a command in a folder to the end of the last process that it has started."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        watch = Watch(started + timeout)
        watch.start()
        code, seconds, cpu = 0, 0.0, 0.0
        try:
            with suppress(ChildProcessError):  # there is none left
                while True:
                    pid, status, usage = os.wait4(-1, 0)
                    cpu += usage.ru_utime + usage.ru_stime
                    if pid == process.pid:
                        seconds, code = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        finally:
            watch.stop()
        process.returncode = code  # else it would be looked for
        texts = [said(file.fileno()) for file in (out, err)]
    return Cost(code, seconds, cpu, watch.peak, *texts)


def said(file: int) -> str:
    """The text of an open file."""
    return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "replace")


class Watch(threading.Thread):
    """Samples the memory of all descendants, and ends them when their time is over or the run is interrupted."""

    def __init__(self, deadline: float) -> None:
        super().__init__(daemon=True)
        self.deadline, self.peak, self.stopped = deadline, 0, threading.Event()

    def run(self) -> None:
        """Take samples until stopped."""
        while not self.stopped.wait(1 / SAMPLES_PER_SECOND):
            found = descendants(os.getpid())
            self.peak = max(self.peak, sum(found.values()))
            if time.perf_counter() > self.deadline:
                end(found)

    def stop(self) -> None:
        """End the sampling, and what is left of the run."""
        self.stopped.set()
        self.join()
        end(descendants(os.getpid()))


def end(pids: Iterable[int]) -> None:
    """End processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> Dict[int, int]:
    """The processes below one, each with its resident memory in bytes."""
    children: Dict[int, List[int]] = {}
    memory: Dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it has ended
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
                memory[int(name)] = int(fields[21]) * PAGE
    found, generation = {}, children.get(root, [])
    while generation:
        found.update({pid: memory[pid] for pid in generation})
        generation = [child for pid in generation for child in children.get(pid, [])]
    return found


def count_processes(command: Sequence[str], env: Mapping[str, str], folder: Path, timeout: float) -> Optional[int]:
    """How many programs a command starts, itself included; None where strace is not there or not allowed."""
    if not shutil.which(STRACE[0]):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch, "trace")
        cost = run([*STRACE, str(trace), *command], env, folder, timeout)
        if cost.code:
            return None
        with trace.open(encoding="utf-8", errors="replace") as lines:
            return count_started(lines)


def count_started(trace: Iterable[str]) -> int:
    """How many processes have run a program of their own, from strace's lines.

    A process that turns from one program into another, as launchers do, is one; a number may come again later.

    >>> lines = ['1 execve("sh", ...) = 0', '1 execve("java", ...) = 0', "2 execve(... <unfinished ...>",
    ...          "2 <... execve resumed>) = 0", "2 +++ exited with 0 +++", '2 execve("chmod", ...) = 0',
    ...          '3 execve("nothing", ...) = -1 ENOENT (No such file)']
    >>> count_started(lines)
    3
    """
    alive: Set[str] = set()
    count = 0
    for line in trace:
        pid = line.partition(" ")[0]
        if "+++ exited" in line or "+++ killed" in line:
            alive.discard(pid)
        elif pid not in alive and re.search(r"exec.*\) += 0$", line):
            alive.add(pid)
            count += 1
    return count
