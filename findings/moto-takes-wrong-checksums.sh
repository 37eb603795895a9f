#!/usr/bin/env bash
# One would expect: a stand-in for S3 refuses an upload whose checksum does not fit, as S3 does (400 BadDigest), as it also
#   plays preconditions, small parts and ranges. What happens: moto takes an object and a part with a wrong Content-MD5 or
#   a wrong x-amz-checksum-sha256 and answers 200.
# Versions: PyPI moto 5.2.5, boto3 1.43.117.
# Why it matters: a client whose checksum is wrong, or that does not notice a refused one, passes all its tests and fails
#   with the real store alone.
# Instead: test what guards uploads against a store that computes them (MinIO, SeaweedFS), or play 400 by hand.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check 'moto[s3,server]==5.2.5' boto3==1.43.117
cd "$work"
cat >show.py <<'PY'
import base64
import hashlib
from importlib.metadata import version

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

print("moto", version("moto"), "boto3", version("boto3"))
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
keys = {"aws_access_key_id": "some", "aws_secret_access_key": "key", "region_name": "us-east-1"}
s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
s3.create_bucket(Bucket="bucket")
at = {"Bucket": "bucket", "Key": "object"}
md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
sha256 = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


def code(call, **parameters):
    try:
        return call(**parameters)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["Error"]["Code"]


upload = s3.create_multipart_upload(**at)["UploadId"]
part = {**at, "UploadId": upload, "PartNumber": 1, "Body": b"data"}
seen = {
    "an object with a wrong MD5": code(s3.put_object, **at, Body=b"data", ContentMD5=md5),
    "an object with a wrong SHA-256": code(s3.put_object, **at, Body=b"data", ChecksumSHA256=sha256),
    "a part with a wrong MD5": code(s3.upload_part, **part, ContentMD5=md5),
    "a part with a wrong SHA-256": code(s3.upload_part, **part, ChecksumSHA256=sha256),
    "an object that is there, If-None-Match": code(s3.put_object, **at, Body=b"data", IfNoneMatch="*"),
}
for what, answer in seen.items():
    print(f"{what}: {answer}")
server.stop()
assert list(seen.values()) == [200, 200, 200, 200, "PreconditionFailed"]
PY
venv/bin/python show.py 2>log || { cat log; exit 1; }
echo "As stated: wrong checksums are taken, while a precondition is kept."
