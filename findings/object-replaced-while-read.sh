#!/usr/bin/env bash
# One would expect: a reader of an object that is replaced meanwhile returns the old bytes, or fails: S3 has If-Match for
#   that, and a file that was open would stay the old one. What happens: obstore's `open_reader` and pyarrow's
#   `open_input_file` fetch each buffer by a request of its own, without If-Match: 1 MiB of the old object, the rest of
#   the new one, no error. boto3's `download_file` and s3fs notice it; obstore's `get` is one request, and stays old.
# Versions: obstore 0.12.1, pyarrow 26.0.1, boto3 1.43.117, s3fs 2026.9.0, moto 5.2.5 (PyPI).
# Why it matters: objects look immutable, and these are the "file" interfaces to them; of the same length, a mix of two
#   versions passes all but a checksum.
# Instead: take `get` and its stream; or ask for the ETag before and after.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check \
    'moto[server]==5.2.5' s3fs==2026.9.0 boto3==1.43.117 obstore==0.12.1 pyarrow==26.0.1 2>/dev/null
export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1

"$work/venv/bin/python" - "$work" 2>"$work/said" <<'PY' || { tail -5 "$work/said"; exit 1; }
import importlib.metadata
import sys

import boto3
import obstore
import s3fs
from boto3.s3.transfer import TransferConfig
from moto.server import ThreadedMotoServer
from obstore.store import S3Store
from pyarrow.fs import S3FileSystem

for name in ("obstore", "pyarrow", "boto3", "s3fs", "moto"):
    print(name, importlib.metadata.version(name), end="; ")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host = "%s:%d" % server.get_host_and_port()
client = boto3.client("s3", endpoint_url=f"http://{host}")
client.create_bucket(Bucket="bucket")
size, first = 24 << 20, 1 << 20


def put(letter):
    client.put_object(Bucket="bucket", Key="film", Body=letter * size)


def interrupted(file):
    start = bytes(file.read(first))
    put(b"B")
    return start + bytes(file.read())


store = S3Store(
    "bucket", endpoint=f"http://{host}", client_options={"allow_http": True}, virtual_hosted_style_request=False
)


def by_reader():
    return interrupted(obstore.open_reader(store, "film"))


def by_stream():
    chunks = iter(obstore.get(store, "film").stream(min_chunk_size=first))
    start = bytes(next(chunks))
    put(b"B")
    return start + b"".join(map(bytes, chunks))


def by_pyarrow():
    return interrupted(S3FileSystem(endpoint_override=host, scheme="http").open_input_file("bucket/film"))


def by_s3fs():
    system = s3fs.S3FileSystem(client_kwargs={"endpoint_url": f"http://{host}"}, default_block_size=5 << 20)
    return interrupted(system.open("bucket/film", "rb"))


def by_boto3():
    replaced = []

    def progress(_):
        if not replaced:
            replaced.append(put(b"B"))

    config = TransferConfig(max_concurrency=1)
    client.download_file("bucket", "film", f"{sys.argv[1]}/film", Callback=progress, Config=config)
    return open(f"{sys.argv[1]}/film", "rb").read()


print("\nthe object is replaced after a first piece was read:")
expected = {
    "obstore open_reader": (by_reader, "mixed"),
    "pyarrow open_input_file": (by_pyarrow, "mixed"),
    "obstore get": (by_stream, "old"),
    "s3fs open": (by_s3fs, "error"),
    "boto3 download_file": (by_boto3, "error"),
}
wrong = []
for name, (read, outcome) in expected.items():
    put(b"A")
    try:
        data = read()
    except Exception as error:
        found, detail = "error", type(error).__name__
    else:
        old = data.count(b"A")
        found, detail = "old" if old == size else "mixed", f"{old} bytes of the old, {len(data) - old} of the new"
    print(f"{name:24} {detail}")
    if found != outcome:
        wrong.append(name)
server.stop()
assert not wrong, wrong
PY
echo "As stated: two file-like readers mix two objects."
