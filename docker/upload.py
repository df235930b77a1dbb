"""Puts a folder into a new bucket of the S3 that compose.yaml starts.

python upload.py FOLDER s3://BUCKET
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3


def upload(folder: Path, bucket: str) -> int:
    """Upload all JSON files below a folder under their relative names; returns how many."""
    s3 = boto3.client("s3", region_name="us-west-2")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    files = [path for path in sorted(folder.rglob("*.json*")) if path.is_file()]
    for path in files:
        s3.upload_file(str(path), bucket, path.relative_to(folder).as_posix())
    return len(files)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    print("%d files are in %s" % (upload(Path(source), target.partition("://")[2]), target))
