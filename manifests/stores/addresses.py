"""Addresses: of a manifest, at a path or URL, and of the files inside it."""

import re

from manifests.errors import InputError

AGAIN = "the manifest is incomplete or damaged: fetch or make it again"
UNKNOWN_SIZE = -1
"""Size of a file at a URL if the server does not report it."""


def is_url(text: str) -> bool:
    """Return whether the text is a URL, not a path on this machine."""
    return "://" in text


def without_password(url: str) -> str:
    """Return a URL, or text with one in it, for messages: without user and password, which may contain an @."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


def levels(path: str) -> list[str]:
    """Return the folders and name of a file inside a manifest; raises InputError for a path that leads out of it."""
    names = path.split("/")
    if {"", ".", ".."}.intersection(names) or "\0" in path:
        raise InputError(f"a manifest names a file outside its folder: {path!r}", hint=AGAIN)
    return names
