"""Generate `src/fedhft/v1` from `protos/`, or say whether it is stale (`--check`)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("fedhft/v1")


def generate(out: Path) -> None:
    """Write messages, services and their typing stubs under `out`/fedhft/v1. Raises CalledProcessError."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / PACKAGE).glob("*.proto"))
    command = [
        sys.executable, "-m", "grpc_tools.protoc", "-I", ".",
        f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}",
    ]  # fmt: skip
    # The stub plugins are beside the interpreter, whether or not its environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run([*command, *sources], cwd=PROTOS, env={**os.environ, "PATH": path}, check=True, timeout=120)


def stale(committed: Path) -> list[str]:
    """Names of files under `committed` that differ from what `protos/` says, are missing, or have no proto."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = {path.name: path.read_bytes() for path in (Path(folder) / PACKAGE).iterdir()}
    kept = {path.name: path.read_bytes() for path in committed.glob("*_pb2*")}
    return sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))


def main() -> int:
    """Generate, or with --check compare: 1 when stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the generated code is stale")
    if not parser.parse_args().check:
        generate(ROOT / "src")
        return 0
    names = stale(ROOT / "src" / PACKAGE)
    for name in names:
        print(f"src/{PACKAGE}/{name} does not match protos/; run make protos", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
