"""The files of the page, from this package: read once, each with its type and a tag that changes with it."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class Asset:
    """One file."""

    content_type: str
    data: bytes
    zipped: bytes
    tag: str
    """For If-None-Match."""


def read_assets() -> dict[str, Asset]:
    """Every file by its path on the page: "/" is the page itself, the others are under /static/."""
    found = {}
    for path in sorted(_ROOT.rglob("*")):
        content_type = _TYPES.get(path.suffix)
        if content_type is not None:
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            name = "/" if path.name == "index.html" else f"/static/{path.relative_to(_ROOT).as_posix()}"
            found[name] = Asset(content_type, data, gzip.compress(data, 9, mtime=0), tag)
    return found
