"""Chromium for tests of the page: it reaches this machine and nothing else. Skips a test where it is not installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

# As root, which containers run tests as, Chromium has no sandbox of its own.
_FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--no-sandbox",
)


@contextmanager
def chromium(**variables: str) -> Iterator[Any]:
    """A browser, and Playwright's driver with these variables in its environment."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is in the extra `browser`")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with mock.patch.dict(os.environ, variables), playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
