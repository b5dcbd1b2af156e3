"""Exported directories on their way to a Hugging Face hub: huggingface_hub itself, against a stub of the hub's HTTP."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PUSH = """
import sys
from pathlib import Path
from fedhft.errors import FedhftError
from fedhft.export.hub import push_to_hub
try:
    print(push_to_hub([Path(name) for name in sys.argv[2:]], sys.argv[1], "tickets version 3"))
except FedhftError as error:
    sys.exit(f"{error.code.value}: {error.message}")
"""


class Hub(ThreadingHTTPServer):
    """What a hub answers to a small upload; every file is sent inside the commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Calls)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Calls(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer(200, {"id": "firm/tickets", "siblings": [], "sha": "0" * 40})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            self._answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(data))
            self._answer(200, {"url": f"{self.server.uri}/firm/tickets"})
        elif self.path.startswith("/api/models/firm/tickets/preupload/"):
            asked = json.loads(data)["files"]
            self._answer(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        elif self.path.startswith("/api/models/firm/tickets/commit/"):
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"commitUrl": f"{self.server.uri}/firm/tickets/commit/1", "commitOid": "1" * 40})
        else:
            self._answer(200, {"errors": [], "warnings": []})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(endpoint: str, repository: str, *folders: Path, offline: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": offline}
    command = [sys.executable, "-c", PUSH, repository, *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


def exported(folder: Path) -> Path:
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tickets\n")
    (folder / "adapter_model.safetensors").write_bytes(b"weights of " + folder.name.encode())
    return folder


def test_one_directory_is_at_the_top_of_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    done = push(hub.uri, "firm/tickets", exported(tmp_path / "cluster-0"))
    assert done.stdout.strip() == f"{hub.uri}/firm/tickets", done.stderr
    made = hub.made[0]
    assert (made["name"], made.get("organization")) == ("tickets", "firm")
    assert made.get("private") or made.get("visibility") == "private"
    assert hub.files["adapter_model.safetensors"] == b"weights of cluster-0"
    assert "README.md" in hub.files
    assert hub.tokens == {"Bearer hf_secret"}


def test_several_have_a_folder_each(hub: Hub, tmp_path: Path) -> None:
    done = push(hub.uri, "firm/tickets", exported(tmp_path / "cluster-0"), exported(tmp_path / "cluster-1"))
    assert done.returncode == 0, done.stderr
    assert hub.files["cluster-1/adapter_model.safetensors"] == b"weights of cluster-1"
    assert {name.partition("/")[0] for name in hub.files} == {"cluster-0", "cluster-1"}


def test_what_the_hub_refuses_is_said_without_a_traceback(hub: Hub, tmp_path: Path) -> None:
    hub.refuses = True
    done = push(hub.uri, "firm/tickets", exported(tmp_path / "cluster-0"))
    assert done.stderr.splitlines()[-1].startswith("invalid_argument: --push-to-hub = 'firm/tickets': "), done.stderr
    assert "Traceback" not in done.stderr
    done = push(hub.uri, "not a name", exported(tmp_path / "cluster-1"))
    assert "invalid_argument: --push-to-hub = 'not a name': " in done.stderr


def test_a_hub_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    done = push("http://127.0.0.1:9", "firm/tickets", exported(tmp_path / "cluster-0"))
    assert "server_unavailable: --push-to-hub = 'firm/tickets': " in done.stderr
    assert "Traceback" not in done.stderr
    done = push("http://127.0.0.1:9", "firm/tickets", tmp_path / "cluster-0", offline="1")
    assert "HF_HUB_OFFLINE" in done.stderr
