"""What the job asks of S3: its requests by kind, counted by moto's server on loopback."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple, Union
from urllib.parse import parse_qs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cloud"))
import aws

INPUT, LAKE = "bench-input", "bench-lake"  # buckets


class CountingServer(aws.Server):
    """moto's server that counts requests by bucket and kind."""

    def __init__(self) -> None:
        self.counts: Counter[Tuple[str, str]] = Counter()
        self.counting = threading.Lock()
        super().__init__()

    def serve(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """A WSGI application around moto's."""
        with self.counting:
            self.counts[environ["PATH_INFO"].split("/")[1], kind(environ)] += 1
        return super().serve(environ, start_response)


def kind(environ: Mapping[str, Any]) -> str:
    """What a request is.

    >>> kind({"REQUEST_METHOD": "GET", "PATH_INFO": "/bucket/", "QUERY_STRING": "list-type=2"})
    'LIST'
    >>> kind({"REQUEST_METHOD": "PUT", "PATH_INFO": "/b/k", "QUERY_STRING": "", "HTTP_X_AMZ_COPY_SOURCE": "b/j"})
    'PUT (copy)'
    """
    method: str = environ["REQUEST_METHOD"]
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    key = environ["PATH_INFO"].split("/", 2)[2:]
    if method == "GET" and not any(key):
        return "LIST"
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "PUT (copy)"
    if method == "POST" and "delete" in query:
        return "DELETE (of many)"
    return method


def count(job: Sequence[str], data: Path, env: Mapping[str, str], timeout: float) -> Union[Dict[str, Any], str]:
    """Run the job with input and lake in S3.

    Returns objects and requests by kind for "input" and "output", or what a failed run has said.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = CountingServer()
    try:
        for bucket in (INPUT, LAKE):
            server.make_bucket(bucket)
        server.upload(data / "song_data", INPUT, "song_data")
        server.upload(data / "log_data", INPUT, "log_data")
        server.counts.clear()
        with tempfile.TemporaryDirectory() as scratch:
            done = run(job, {**without_aws(env), **server.environment(Path(scratch))}, scratch, timeout)
        counts = dict(server.counts)
        if done.returncode:
            return (done.stdout + done.stderr)[-3000:]
        sides = {"input": INPUT, "output": LAKE}
        return {side: side_record(server, bucket, counts) for side, bucket in sides.items()}
    finally:
        server.close()


def run(job: Sequence[str], env: Mapping[str, str], folder: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the job from an empty folder, where no dl.cfg is found before the project's."""
    places = {"--song-data": INPUT + "/song_data", "--log-data": INPUT + "/log_data", "--output": LAKE + "/lake"}
    flags = [text for flag, place in places.items() for text in (flag, "s3://" + place)]
    command = [*job, "--mode", "S3", *flags]
    return subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=timeout
    )


def without_aws(env: Mapping[str, str]) -> Dict[str, str]:
    """An environment without the credentials of whoever runs this."""
    return {name: value for name, value in env.items() if not name.startswith("AWS_")}


def side_record(server: CountingServer, bucket: str, counts: Mapping[Tuple[str, str], int]) -> Dict[str, Any]:
    """The objects of a bucket and the requests to it."""
    keys: List[str] = server.keys(bucket)
    requests = {name: number for (place, name), number in sorted(counts.items()) if place == bucket}
    return {"objects": len([key for key in keys if not key.endswith("/")]), "requests": requests}
