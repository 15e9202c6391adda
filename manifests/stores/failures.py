"""What an error of a connection means, whichever library raised it: its status, its reason, and whether it may pass.

The libraries behind URLs (urllib3, aiohttp, botocore, httpx, ...) may not be installed, so their errors are known by
the names of their classes.
"""

import errno
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NoReturn

from manifests.errors import InputError, UnreachableError
from manifests.stores.addresses import without_password

PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses with which a server says that it cannot answer now."""
_LOST = frozenset({
    "ClientConnectionError", "ClientPayloadError", "ConnectionClosedError", "ConnectionError",
    "EndpointConnectionError", "HTTPClientError", "IncompleteRead", "IncompleteReadError", "ProtocolError",
    "RemoteProtocolError", "ResponseStreamingError", "TransportError",
})  # fmt: skip
_NO_WAY = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)
_SILENT = frozenset({"ConnectTimeoutError", "ReadTimeoutError", "Timeout", "TimeoutException", "TimeoutError"})


class StatusError(Exception):
    """An answer whose status is not that of success."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_text(status))
        self.status, self.headers = status, headers


class SlowError(TimeoutError):
    """An answer that comes so slowly that it is as good as none."""


def status_text(status: int) -> str:
    """Return a status as servers spell it: 503 Service Unavailable."""
    return f"{status} {HTTPStatus(status).phrase}" if status in list(HTTPStatus) else str(status)


def status_of(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about, None if there was no answer."""
    # Not of an error that was handled when this one was raised (`__context__`): that is about another answer.
    for cause in filter(None, (error, error.__cause__)):
        response = getattr(cause, "response", None)
        told = _botocore(response).get("HTTPStatusCode")
        for status in (getattr(cause, "status", None), getattr(response, "status_code", None), told):
            if isinstance(status, int) and status >= 300:
                return status
    return None


def retry_after_s(error: BaseException) -> float:
    """Return how long the server asks to wait, in seconds; 0 if it does not say."""
    for cause in filter(None, (error, error.__cause__)):
        response = getattr(cause, "response", None)
        headers = getattr(cause, "headers", None) or getattr(response, "headers", None)
        headers = headers or _botocore(response).get("HTTPHeaders") or {}
        text = str({str(name).lower(): headers[name] for name in headers}.get("retry-after", ""))
        if text.isascii() and text.strip().isdigit():
            return float(text)
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            continue
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return 0.0


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed in a moment.

    A name that does not resolve may not: it is mostly mistyped, and the resolver has tried several times by itself.
    """
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
        return False
    if (status := status_of(error)) is not None:
        return status in PASSING
    system = _system_error(error)
    if isinstance(system, socket.gaierror | ssl.SSLCertVerificationError):
        return False
    return system is not None or is_silence(error) or any(_names(cause) & _LOST for cause in _chain(error))


def is_silence(error: BaseException) -> bool:
    """Return whether nothing came for too long; a refused connection is an answer, whatever its class is called."""
    is_timeout = any(isinstance(cause, TimeoutError) or _names(cause) & _SILENT for cause in _chain(error))
    return is_timeout and _system_error(error) is None


def reason_of(error: BaseException, timeout_s: float) -> str:
    """Return why there is no answer, in a few words without a password."""
    if (status := status_of(error)) is not None:
        # Object stores explain a status in words of their own.
        own = str(error).splitlines()[0] if isinstance(error, OSError) and str(error) else ""
        return without_password(own if str(status) in own else " ".join(filter(None, [status_text(status), own])))
    if isinstance(error, SlowError):
        return str(error)
    if is_silence(error):
        return f"no answer for {timeout_s:g} s"
    names = set().union(*map(_names, _chain(error)))
    if names & {"RemoteDisconnected", "ServerDisconnectedError"}:
        return "the connection was closed without an answer"
    if (system := _system_error(error)) is not None and system.strerror:
        text = str(system.strerror)
        return f"{text[:1].lower()}{text[1:]}"
    if names & {"IncompleteRead", "IncompleteReadError", "ClientPayloadError"}:
        return "the answer ended before all of it had come"
    first = next(iter(str(error).splitlines()), "")
    return without_password(first or type(error).__name__)


def tell(where: str, error: Exception, timeout_s: float, attempts: int = 1) -> NoReturn:
    """Raise FileNotFoundError for what is missing, InputError for what is denied, else UnreachableError."""
    status = status_of(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from None
    reason = reason_of(error, timeout_s)
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        hint = "check the address and the credentials"
        raise InputError(f"{where}: access is denied ({reason})", hint=hint) from None
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    hint = "check the address and the network"
    if may_pass(error):
        hint += f"; --timeout SECONDS is the longest wait for an answer, now {timeout_s:g} s"
    raise UnreachableError(f"{where}: {reason}{tried}", hint=hint) from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _system_error(error: BaseException) -> OSError | None:
    """Return what the operating system said of a connection, other than that it took too long."""
    kinds = (ConnectionError, socket.gaierror, ssl.SSLCertVerificationError)
    for cause in _chain(error):
        if isinstance(cause, kinds) or (isinstance(cause, OSError) and cause.errno in _NO_WAY):
            return cause
    return None


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _botocore(response: Any) -> Mapping[str, Any]:
    """Return what botocore says of an answer; empty for the answers of other libraries."""
    found = response.get("ResponseMetadata") if isinstance(response, dict) else None
    return found if isinstance(found, dict) else {}
