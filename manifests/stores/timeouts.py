"""The timeout as the libraries behind s3://, gs:// and hf:// take it; others have timeouts of their own."""

from math import ceil
from typing import Any

S3_SCHEMES = ("s3", "s3a")


def timeout_options(scheme: str, timeout_s: float) -> dict[str, Any]:
    """Return options of a file system of fsspec: its longest time without a byte, and one attempt where we count them.

    Raises ImportError if the library is not installed.
    """
    if scheme in S3_SCHEMES:
        # https://botocore.amazonaws.com/v1/documentation/api/latest/reference/config.html
        once = {"total_max_attempts": 1}
        return {"config_kwargs": {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": once}}
    if scheme in ("gs", "gcs"):
        from aiohttp import ClientTimeout

        # A total would end a large file.
        timeout = ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        return {"session_kwargs": {"timeout": timeout}}
    if scheme == "hf":
        _set_hub_timeouts(timeout_s)
    return {}


def _set_hub_timeouts(timeout_s: float) -> None:
    """Set the timeouts of the hub's library, which has them once per process."""
    from huggingface_hub import constants, get_session

    constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = ceil(timeout_s)
    get_session().timeout = timeout_s
