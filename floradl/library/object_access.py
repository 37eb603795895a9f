"""Where a bucket is and who may use it: settings and the usual environment names -> a client's options.

No metadata address is asked for credentials unless the settings allow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from floradl.errors import ConfigError
from floradl.urls import BucketUrl, strip_query

_REGIONLESS = "us-east-1"  # what stores that have no regions are signed for


class StoreAccess(Struct, frozen=True):
    """How a store is reached: `output.endpoint`, `output.region`, and the environment.

    `instance_credentials`: the metadata address of this machine may be asked for credentials.
    """

    endpoint: str | None = None
    region: str | None = None
    instance_credentials: bool = False
    environ: Mapping[str, str] = {}

    def __repr__(self) -> str:
        """Without the environment, which holds secrets."""
        return f"StoreAccess(endpoint={self.endpoint!r}, region={self.region!r})"

    def get(self, *names: str) -> str:
        """Return the first of the environment's variables that is set; empty where none is."""
        return next((value for name in names if (value := self.environ.get(name, "").strip())), "")


def options_of(url: BucketUrl, access: StoreAccess) -> dict[str, str]:
    """Return the client's options, secrets among them: never to be shown.

    Raises `ConfigError` where a setting is missing.
    """
    endpoint = access.endpoint
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"output.endpoint is {strip_query(endpoint)!r}: write https://HOST[:PORT]")
    build = {"s3": _s3, "gs": _gcs, "az": _azure}[url.scheme]
    options = build(url, access)
    return {"root": f"/{url.prefix}/" if url.prefix else "/", **{k: v for k, v in options.items() if v}}


def _yes(value: bool) -> str:  # noqa: FBT001 - a value, not a switch
    return "true" if value else "false"


def _s3(url: BucketUrl, access: StoreAccess) -> dict[str, str]:
    endpoint = access.endpoint or access.get("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region = access.region or access.get("AWS_REGION", "AWS_DEFAULT_REGION")
    if not region:
        if not endpoint:
            raise ConfigError(
                f"{url}: the bucket's region is not known. Set output.region, or output.endpoint for a store "
                "that is not Amazon's"
            )
        region = "auto" if ".r2.cloudflarestorage." in endpoint else _REGIONLESS
    key, secret = access.get("AWS_ACCESS_KEY_ID"), access.get("AWS_SECRET_ACCESS_KEY")
    return {
        "bucket": url.bucket,
        "endpoint": endpoint,
        "region": region,
        "access_key_id": key,
        "secret_access_key": secret,
        "session_token": access.get("AWS_SESSION_TOKEN") if key else "",
        "profile": "" if key else access.get("AWS_PROFILE"),
        "disable_config_load": _yes(bool(key)),
        "disable_ec2_metadata": _yes(not access.instance_credentials),
    }


def _gcs(url: BucketUrl, access: StoreAccess) -> dict[str, str]:
    token = access.get("CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN")
    path = access.get("GOOGLE_APPLICATION_CREDENTIALS")
    usual = Path(access.get("HOME") or "/nonexistent") / ".config/gcloud/application_default_credentials.json"
    if not path and usual.is_file():
        path = str(usual)
    if not (token or path or access.instance_credentials):
        raise ConfigError(
            f"{url}: no credentials. Set GOOGLE_APPLICATION_CREDENTIALS to a key file's path, or "
            "output.instance_credentials: true on a machine of Google's"
        )
    return {
        "bucket": url.bucket,
        "endpoint": access.endpoint or "",
        "token": token,
        "credential_path": "" if token else path,
        "disable_config_load": "true",
        "disable_vm_metadata": _yes(not access.instance_credentials),
    }


def _azure(url: BucketUrl, access: StoreAccess) -> dict[str, str]:
    pairs = (each.partition("=") for each in access.get("AZURE_STORAGE_CONNECTION_STRING").split(";") if each)
    said = {name.strip().lower(): value.strip() for name, _, value in pairs}
    account = access.get("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME") or said.get("accountname", "")
    key = access.get("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY") or said.get("accountkey", "")
    sas = access.get("AZURE_STORAGE_SAS_TOKEN") or said.get("sharedaccesssignature", "")
    endpoint = access.endpoint or said.get("blobendpoint", "")
    if not account:
        raise ConfigError(f"{url}: set AZURE_STORAGE_ACCOUNT to the storage account's name")
    named = access.get("AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE")
    if not (key or sas or named or access.instance_credentials):
        raise ConfigError(
            f"{url}: no credentials. Set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or "
            "output.instance_credentials: true on a machine of Azure's"
        )
    return {
        "container": url.bucket,
        "endpoint": endpoint or f"https://{account}.blob.core.windows.net",
        "account_name": account,
        "account_key": key,
        "sas_token": "" if key else sas.lstrip("?"),
    }
