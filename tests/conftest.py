"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3 import Bucket, s3_server

from manifests.stores.patience import Patience, patient

# How long an example takes depends on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Nor does a test wait before it asks a server again, or tell that a busy machine answers late.
NO_PAUSES = Patience(waits_s=(0.0, 0.0, 0.0), tell_after_s=300.0)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image sets beside the project; its tests are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real image sets (../shared/data) are not here")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """Servers are asked again at once."""
    with patient(NO_PAUSES):
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server of this machine."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket; s3:// means its server during the test."""
    found = Bucket(s3_endpoint)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.close()
