"""An S3 server of this machine for tests (moto), and what it was asked to do."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_PROXY": "127.0.0.1",
}


class Bucket:
    """A bucket that keeps every version of its objects, so that puts can be counted."""

    def __init__(self, endpoint: str, name: str | None = None) -> None:
        import boto3

        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
        """For commands, so that s3:// means this server."""
        self.name = name or f"bucket-{uuid4().hex[:12]}"
        self.url = f"s3://{self.name}"
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=self.name)
        self._client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def puts(self) -> Counter[str]:
        """How often each object was put."""
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        return Counter(version["Key"] for page in pages for version in page.get("Versions", []))

    def objects(self) -> list[str]:
        """Objects that are there."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", []))

    def get(self, key: str) -> bytes:
        """An object."""
        return self._client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        """Put an object, past the tool."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def close(self) -> None:
        """Close connections."""
        self._client.close()


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
