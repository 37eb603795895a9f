#!/usr/bin/env bash
# One would expect: a cache of listings makes `ls` stale, and what is asked for by its name is asked for at the store.
# What happens: after one `ls` of a prefix, s3fs answers `exists`, `info`, `cat`, `open` and `glob` of anything under it
#   from that listing, without a time limit: an object that another program wrote does not exist, and reading it by its
#   exact name raises FileNotFoundError. A new S3FileSystem(…) does not help: fsspec returns the same instance.
# Versions: s3fs 2026.9.0, moto 5.2.5 (PyPI).
# Why it matters: a loop that waits for a result waits for ever, and "not there" leads to a second, needless run.
# Instead: `use_listings_cache=False`, or `invalidate_cache()` before each look.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check 'moto[server]==5.2.5' s3fs==2026.9.0 boto3==1.43.117 2>/dev/null
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1

"$work/venv/bin/python" - 2>"$work/said" <<'PY' || { tail -5 "$work/said"; exit 1; }
import importlib.metadata

import boto3
import s3fs
from moto.server import ThreadedMotoServer

print("s3fs", importlib.metadata.version("s3fs"))
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
options = {"client_kwargs": {"endpoint_url": "http://%s:%d" % server.get_host_and_port()}}
client = boto3.client("s3", **options["client_kwargs"])  # the other program
client.create_bucket(Bucket="bucket")
client.put_object(Bucket="bucket", Key="runs/first", Body=b"1")

system = s3fs.S3FileSystem(**options)
print("ls:", system.ls("bucket/runs"))
client.put_object(Bucket="bucket", Key="runs/second", Body=b"2")
print("another program has written runs/second")


def look(system):
    try:
        text = system.cat("bucket/runs/second").decode()
    except FileNotFoundError as error:
        text = type(error).__name__
    return system.exists("bucket/runs/second"), system.glob("bucket/runs/s*"), text


again = s3fs.S3FileSystem(**options)
for name, one in (("the same", system), ("made again", again)):
    print(f"{name}: exists, glob, cat:", *look(one))
    assert look(one) == (False, [], "FileNotFoundError")
assert again is system
fresh = s3fs.S3FileSystem(use_listings_cache=False, **options)
fresh.ls("bucket/runs")
print("without the cache:", *look(fresh))
assert look(fresh) == (True, ["bucket/runs/second"], "2")
system.invalidate_cache()
assert look(system)[0]
server.stop()
PY
echo "As stated: what was not in the listing does not exist."
