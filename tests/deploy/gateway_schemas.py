"""Objects of Gateway API against the models that are generated from its own Go types, by npm.

Two looks at one object, since neither sees everything: TypeScript finds fields that are not there in the types, the
models' validators find values that the schema does not allow (patterns, bounds, what is required).
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.deploy.rendering import Object

GROUP = "gateway.networking.k8s.io"
PACKAGES = ("@kubernetes-models/gateway-api@2.0.0", "typescript@5.9.3")
"""Of Gateway API 1.5, where TLSRoute is v1."""
_CHECK = """
for (const [place, one] of objects.entries()) {
  try { new kinds[one.kind](one).validate(); }
  catch (error) { console.log(JSON.stringify([place, error.message])); }
}
"""


@functools.cache
def _models() -> Path:
    """A folder with the packages; skips where they cannot be had."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("the models of Gateway API come from npm, which is not here")
    folder = Path(tempfile.mkdtemp(prefix="fedhft-gateway-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
    flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    done = _run(folder, "npm", "install", *flags, *PACKAGES)
    if done.returncode != 0:
        pytest.skip(f"the models of Gateway API cannot be fetched: {done.stderr[-300:]}")
    return folder


def gateway_faults(objects: Sequence[Object]) -> list[str | None]:
    """What is wrong with each object of the group, None where nothing is; all are looked at in one go."""
    folder, found = _models(), [""] * len(objects)
    kinds = sorted({each["kind"] for each in objects})
    for place, each in enumerate(objects):
        kind = folder / f"node_modules/@kubernetes-models/gateway-api/{each['apiVersion']}/{each['kind']}.js"
        if not kind.is_file():
            found[place] = f"{PACKAGES[0]} has no {each['kind']} of {each['apiVersion']}"
    if any(found):
        return [said or None for said in found]
    modules = {each["kind"]: f"@kubernetes-models/gateway-api/{each['apiVersion']}/{each['kind']}" for each in objects}
    imports = [f'import {{ {kind} }} from "{modules[kind]}";' for kind in kinds]
    values = [f"const objects = {json.dumps(objects)};", f"const kinds = {{ {', '.join(kinds)} }};"]
    (folder / "values.mjs").write_text("\n".join([*imports, *values, _CHECK]), encoding="utf-8")
    said = _run(folder, "node", "values.mjs")
    assert said.returncode == 0, said.stderr
    for line in said.stdout.splitlines():
        place, message = json.loads(line)
        found[place] += message

    types = [f'import type {{ I{kind} }} from "{modules[kind]}";' for kind in kinds]
    # A literal on a line of its own: the compiler says which one has a field that its type does not.
    literals = [f"export const at{place}: I{each['kind']} = {json.dumps(each)};" for place, each in enumerate(objects)]
    (folder / "types.mts").write_text("\n".join([*types, *literals]), encoding="utf-8")
    flags = (
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--pretty",
        "false",
    )
    compiled = _run(folder, "node", "node_modules/typescript/bin/tsc", *flags, "types.mts")
    for line in compiled.stdout.splitlines():
        if line.startswith("types.mts("):
            place = int(line.removeprefix("types.mts(").partition(",")[0]) - len(types) - 1
            found[place] += line.partition("error ")[2]
    assert compiled.returncode == 0 or any(found), compiled.stdout + compiled.stderr
    return [said or None for said in found]


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
