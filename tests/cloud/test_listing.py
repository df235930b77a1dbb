"""The folders of a store that has only Hadoop's default walk, a request for each, are listed side by side.

EMRFS is closed, so nobody knows how it lists. The default is one folder after the other: for the 12,700 folders of the
public song data at 30 ms each, six minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Dict

import pytest
from conftest import ROOT, event_record, song_record, write_files
from pyspark.sql import SparkSession

AT_ONCE = 8
# A store, here the local disk under another name, in which the first listing of a song folder is answered only when
# seven others have been asked for, too
STORE = """
import java.io.IOException;
import java.net.URI;
import java.util.Collections;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.fs.*;

public class Store extends RawLocalFileSystem {
    private static final Set SEEN = Collections.synchronizedSet(new HashSet());
    private static final CyclicBarrier SIDE_BY_SIDE = new CyclicBarrier(%d);

    public String getScheme() {
        return "store";
    }

    public URI getUri() {
        return URI.create("store:///");
    }

    public FileStatus[] listStatus(Path path) throws IOException {
        String name = path.toUri().getPath();
        if (name.contains("/songs/") && new java.io.File(name).isDirectory() && SEEN.add(name)) {
            try {
                SIDE_BY_SIDE.await(20, TimeUnit.SECONDS);
            } catch (Exception late) {
                throw new IOException("a folder was listed alone", late);
            }
        }
        FileStatus[] found = super.listStatus(path);
        for (int i = 0; i < found.length; i++) found[i] = plain(found[i]);
        return found;
    }

    public FileStatus getFileStatus(Path path) throws IOException {
        return plain(super.getFileStatus(path));
    }

    // A local file's own looks for its permissions where its name does not lead
    private static FileStatus plain(FileStatus file) {
        return new FileStatus(
            file.getLen(), file.isDirectory(), 1, file.getBlockSize(), file.getModificationTime(), file.getPath());
    }
}
"""


@pytest.fixture
def jar(spark: SparkSession, tmp_path: Path) -> Path:
    """The store, compiled by what every Spark has to compile its queries."""
    jvm: Any = spark.sparkContext._jvm
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(STORE % AT_ONCE)
    path = tmp_path / "store.jar"
    with zipfile.ZipFile(str(path), "w") as file:
        for name, code in dict(compiler.getBytecodes()).items():
            file.writestr(name.replace(".", "/") + ".class", bytes(code))
    return path


@pytest.mark.slow
def test_folders_are_listed_side_by_side(jar: Path, tmp_path: Path) -> None:
    songs = {"%s/%s/a.json" % (first, second): [song_record()] for first in "ABCD" for second in "ABCD"}
    for name, records in songs.items():
        write_files(tmp_path / "songs", {name: records})
    # A level of as many folders as are asked for at once, or a multiple
    for extra in range(AT_ONCE - 4):
        (tmp_path / "songs" / str(extra)).mkdir()
    write_files(tmp_path / "logs", {"a.json": [event_record()]})
    arguments = "--driver-class-path %s --conf spark.hadoop.fs.store.impl=Store pyspark-shell" % jar
    env: Dict[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("PYSPARK_GATEWAY")}
    command = [sys.executable, str(ROOT / "etl.py"), "--song-data", "store://%s/songs" % tmp_path]
    command += ["--log-data", str(tmp_path / "logs"), "--output", str(tmp_path / "lake")]
    done = subprocess.run(
        command,
        cwd=str(tmp_path),
        env={**env, "PYSPARK_SUBMIT_ARGS": arguments},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "song_data  16 records = 1 songs + 15 duplicates + 0 quarantined" in done.stdout
