"""kill -9, a full disk and permissions that are taken away, on real runs: the lake holds the old rows or the new ones,
and the next run gives the new ones.

KILLS is how many runs are killed at random moments. The same moments each time, as shares of a run's duration.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Sequence

import compare_lakes
import pytest
from conftest import ROOT, Content, event_record, song_record, write_files

import etl

KILLS = int(os.environ.get("KILLS", "30"))
Rows = Dict[str, Any]


class Scene(NamedTuple):
    """An input, a lake that was built before some of it came, and what a lake holds before and after."""

    folder: Path
    old: Rows
    new: Rows
    seconds: float  # that a run takes


def rows_of(lake: Path) -> Rows:
    """The rows of each table, whatever the files are called."""
    return {table: compare_lakes.read(lake, table).rows for table in etl.TABLES}


def start(script: Path, *options: str, lake: Path, wrapper: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    source = lake.parent
    paths = ["--song-data", str(source / "songs"), "--log-data", str(source / "logs"), "--output", str(lake)]
    return subprocess.Popen(
        [*wrapper, sys.executable, str(script), *options, "--mode", "LOCAL", *paths],
        cwd=str(source),
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def run_to_its_end(lake: Path) -> str:
    """Run the job; returns what it said."""
    process = start(ROOT / "etl.py", lake=lake)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def write_old(folder: Path, files: Mapping[str, Content], seconds: int) -> None:
    """Write files as of long ago, so that nobody takes them for being written."""
    write_files(folder, files)
    for name in files:
        os.utime(str(folder / name), (seconds, seconds))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """In the new input a song is corrected and another one has come, and so have events, where others have gone."""
    folder = tmp_path_factory.mktemp("scene")
    events = [event_record(userId=str(user), itemInSession=user, ts=1541105830796 + user) for user in range(20)]
    december = [event_record(userId="3", level="free", ts=1543968000000), event_record(page="Home", userId="77")]
    songs = {"songs/1.json": [song_record()], "songs/2.json": [song_record(song_id="SO2", title="Ember", year=0)]}
    write_old(folder, {**songs, "logs/a.json": events[:12], "logs/b.json": events[12:]}, 1)
    run_to_its_end(folder / "lake")
    shutil.rmtree(str(folder / "logs"))
    songs = {
        "songs/2.json": [song_record(song_id="SO2", year=1980)],
        "songs/3.json": [song_record(song_id="SO3", artist_id="AR3")],
    }
    write_old(folder, {**songs, "logs/a.json": events[:12], "logs/c.json": december}, 2)
    shutil.copytree(str(folder / "lake"), str(folder / "rebuilt"))
    began = time.monotonic()
    run_to_its_end(folder / "rebuilt")
    seconds = time.monotonic() - began
    old, new = rows_of(folder / "lake"), rows_of(folder / "rebuilt")
    assert all(old[table] != new[table] for table in etl.TABLES)
    return Scene(folder, old, new, seconds)


@pytest.fixture
def lake(scene: Scene) -> Iterator[Path]:
    """A copy of the old lake, beside the new input."""
    lake = scene.folder / "copy"
    shutil.copytree(str(scene.folder / "lake"), str(lake))
    yield lake
    shutil.rmtree(str(lake))


def check(scene: Scene, lake: Path) -> bool:
    """Each table holds the old or the new rows, exactly; whether all are old."""
    found = rows_of(lake)
    for table in etl.TABLES:
        assert found[table] in (scene.old[table], scene.new[table]), table
    return found == scene.old


def check_next_run(scene: Scene, lake: Path) -> str:
    """The next run gives the new rows and leaves nothing else. Returns what it said."""
    said = run_to_its_end(lake)
    assert rows_of(lake) == scene.new
    assert {path.name for path in lake.iterdir()} == {*etl.TABLES, "_ledger", "_lock", "_quarantine", "_runs"}
    assert not list(lake.rglob(".*"))
    assert "  nothing has changed since run " in run_to_its_end(lake)
    return said


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_run_killed_at_any_moment(scene: Scene, lake: Path, kill: int) -> None:
    chosen = random.Random(kill)
    process = start(ROOT / "etl.py", lake=lake)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=chosen.uniform(0, scene.seconds))
    with suppress(ProcessLookupError):
        if chosen.random() < 0.5:
            os.kill(process.pid, signal.SIGKILL)  # Python; its Java sees that and ends
        else:
            os.killpg(process.pid, signal.SIGKILL)  # both
    process.wait()
    check(scene, lake)
    check_next_run(scene, lake)
    close(process)


def close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdout, process.stderr):
        assert stream
        stream.close()


# After how many tables the run dies, and whether the next one finishes the publishing
STEPS = {
    "before begin publishing": (0, False),
    "before write _work/RUN/journal.json": (0, False),
    "after write _work/RUN/journal.json": (0, True),
    "after exchange artists": (1, True),
    "before exchange songplays": (4, True),
    "after exchange staging_events": (7, True),
    "before write _runs/RUN.json": (7, True),
    "before write _ledger/ledger.json": (7, True),
    "after write _ledger/ledger.json": (7, True),
    "before remove _work/RUN/journal.json": (7, True),
    "after remove _work/RUN/journal.json": (7, False),
    "before remove _work/RUN$": (7, False),
    "after remove _work/RUN$": (7, False),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_a_step_of_publishing(scene: Scene, lake: Path, tmp_path: Path, step: str) -> None:
    process = start(ROOT / "tests/crash/steps.py", "kill", step, str(tmp_path / "steps"), lake=lake)
    _, said = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, said
    tables, finished = STEPS[step]
    assert check(scene, lake) == (tables == 0)
    if tables == 7:
        assert rows_of(lake) == scene.new
    said = check_next_run(scene, lake)
    assert ("finished the publishing of run" in said) == finished
    # What is published, or stands in the journal, is not done again
    anew = tables == 0 and not finished
    assert ("nothing has changed since run" in said) == ("start Spark" not in said) == (not anew)


def test_two_runs_at_once(scene: Scene, lake: Path) -> None:
    runs = [start(ROOT / "etl.py", lake=lake) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in runs]
    codes = [process.returncode for process in runs]
    if codes != [0, 0]:  # the first one did not end while the other one waited for it
        assert sorted(codes) == [0, 75], said
        refused = said[codes.index(75)].splitlines()[-1]
        winner = runs[codes.index(0)]
        assert refused.startswith("etl.py: another run writes into %s: run " % lake)
        assert "process %d on " % winner.pid in refused
    assert rows_of(lake) == scene.new


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A small disk mounted on a folder."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 20, 40])
def test_a_full_disk(scene: Scene, free: int) -> None:
    """With so many kB left, more and more steps go well."""
    lake = scene.folder / "small disk"
    lake.mkdir()
    with disk(lake, "1m"):
        for path in (scene.folder / "lake").iterdir():
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(str(path), str(lake / path.name))
        filler = lake / "filler"
        space = os.statvfs(str(lake))
        filler.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free * 1024)))
        process = start(ROOT / "etl.py", lake=lake)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 2, said
        assert " failed, the lake is as it was: " in said.splitlines()[-1]
        assert "No space left on device" in said.splitlines()[-1]
        assert check(scene, lake)
        filler.unlink()
        assert "finished the publishing" not in check_next_run(scene, lake)
    lake.rmdir()


# Root without the right to write everywhere
AS_OTHERS = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def test_permission_that_is_taken_away_before_publishing(scene: Scene, lake: Path, tmp_path: Path) -> None:
    if AS_OTHERS and not shutil.which(AS_OTHERS[0]):
        pytest.skip("root may write everywhere, and there is no setpriv to take that away")
    hold = ["stop", "before begin publishing", str(tmp_path / "steps")]
    process = start(ROOT / "tests/crash/steps.py", *hold, lake=lake, wrapper=AS_OTHERS)
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert state
    assert state.si_code == os.CLD_STOPPED, process.communicate()
    lake.chmod(0o555)
    process.send_signal(signal.SIGCONT)
    said = process.communicate(timeout=300)[1]
    lake.chmod(0o755)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("etl.py: publish failed, the next run finishes publishing it: ")
    assert check(scene, lake)
    said = check_next_run(scene, lake)
    assert "finished the publishing of run" in said
