from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import fedhft


def test_importing_the_library_reads_no_package_metadata() -> None:
    program = "import sys, fedhft; print(fedhft.PROTOCOL_VERSION, 'importlib.metadata' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == [str(fedhft.PROTOCOL_VERSION), "False"], done.stderr


def test_the_version_is_the_installed_one() -> None:
    assert fedhft.__version__ == version("fedhft")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fedhft.nothing  # type: ignore[attr-defined]  # noqa: B018
