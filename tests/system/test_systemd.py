"""The unit of deploy/systemd under a real systemd, in a container that stands for an edge box.

The box is installed by the commands of docs/edge.md. Its server is our image of the aggregator, with mutual TLS.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedhft.certs.authority import Authority
from fedhft.errors import OUTCOMES, ErrorCode
from tests.documented import shell_blocks
from tests.models import rows, tiny_model
from tests.system import image_builds
from tests.system.operators import Operator, accepted, address_of
from tests.system.podman import available, container, logs, network, podman, until
from tests.unit.test_house import ROOT

pytestmark = [pytest.mark.timeout(1800), pytest.mark.containers]
NETWORK = "fedhft-edge"
REDIS, SERVER, BOX = "fedhft-edge-redis", "fedhft-edge-aggregator", "fedhft-edge-box"
MODEL = "/srv/fedhft/models/tiny"
CLIENT = "firm-01"


@dataclass(frozen=True)
class Box:
    """A machine with systemd and /opt/fedhft; our sources are at /root/fedhft, as if cloned."""

    folder: Path
    """Of the host: certificates and the like."""
    operator: Operator

    def sh(self, script: str, check: bool = True, timeout: float = 240) -> str:
        """What a shell script prints on the box. Fails the test when it fails."""
        done = podman("exec", "-w", "/root/fedhft", BOX, "sh", "-ec", script, check=False, timeout=timeout)
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def shown(self, client: str, name: str) -> str:
        """A property of a client's unit."""
        return self.sh(f"systemctl show -P {name} 'fedhft-agent@{client}'").strip()

    def journal(self, client: str) -> str:
        return self.sh(f"journalctl --no-pager -o cat -u 'fedhft-agent@{client}'")

    def settle(self, client: str, seconds: float = 180) -> str:
        """The state of a unit once it has started, failed or waits for a restart."""
        return until(
            f"{client} is neither started nor failed",
            lambda: "" if (state := self.shown(client, "SubState")) in ("start", "start-pre") else state,
            seconds,
        )

    def start(self, client: str) -> None:
        self.sh(f"systemctl start --no-block 'fedhft-agent@{client}'")

    def add(self, client: str, certificate_of: str = CLIENT) -> None:
        """One more client: its files as those of the first, with another's certificate where that is asked for."""
        self.sh(
            f"cp -r /etc/fedhft/{CLIENT} '/etc/fedhft/{client}'\n"
            f"cp /root/certs/agent/{certificate_of}/* '/etc/fedhft/{client}/'"
        )


def commands(section: str) -> str:
    """What a section of the document tells people to type."""
    (block,) = [block for block in shell_blocks("docs/edge.md", section) if "not-run" not in block.marks]
    return block.text


def edge_image() -> str:
    """Our agent's image with Debian's systemd on top."""
    image_builds.ours()
    packages = "systemd systemd-sysv dbus"
    return image_builds.built(
        "localhost/fedhft-test-edge",
        "FROM localhost/fedhft-agent\nUSER 0:0\n"
        f"RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends {packages} >/dev/null\n"
        # Outside of containers systemd itself shares its mounts; without that, credentials do not get to a unit.
        'ENTRYPOINT ["/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init"]\n'
        "STOPSIGNAL SIGRTMIN+3\nHEALTHCHECK NONE\n"
        # The image's own settings are for a container that is an agent.
        "ENV FEDHFT_STATE_DIR= FEDHFT_METRICS_HOST= FEDHFT_METRICS_PORT= HF_HOME=\n",
    )  # fmt: skip


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    available()
    redis, edge = image_builds.redis(), edge_image()
    folder = tmp_path_factory.mktemp("edge")
    authority = Authority.init(folder / "certs", "fedhft.example")
    authority.issue(authority.identity("aggregator"), ["aggregator.fedhft.example", "127.0.0.1"], 90)
    for holder in ("operator/ops", f"agent/{CLIENT}", "agent/firm-02"):
        authority.issue(authority.identity(holder), [], 90)
    for file in (folder / "certs/aggregator", *(folder / "certs/aggregator").iterdir()):
        os.chown(file, 10001, 10001)
    source = folder / "fedhft"
    (source / CLIENT).parent.mkdir()
    shutil.copytree(ROOT / "deploy/systemd", source / "deploy/systemd")
    shutil.copytree(folder / f"certs/agent/{CLIENT}", source / CLIENT)
    lines = "".join(json.dumps(row) + "\n" for row in rows(400))
    (source / "train.jsonl").write_text(lines, encoding="utf-8")
    tiny_model(folder / "model/tiny", layers=2)
    for path in (folder / "model", *folder.rglob("model/**/*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    tls = [f"FEDHFT_TLS_{name}=/tls/{file}" for name, file in
           (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("AUTHORITY", "ca.crt"))]  # fmt: skip
    variables = ["FEDHFT_REDIS=redis://fedhft-edge-redis:6379/0", *tls]
    with (
        network(NETWORK),
        container(REDIS, "--network", NETWORK, redis, "redis-server", "--save", "", "--protected-mode", "no"),
        container(
            SERVER, "--network", f"{NETWORK}:alias=aggregator.fedhft.example", "--read-only",
            "-v", f"{folder}/certs/aggregator:/tls:ro", *(word for one in variables for word in ("-e", one)),
            "fedhft-aggregator",
        ),
        container(
            BOX, "--network", NETWORK, "--privileged", "--systemd=always", "-v", f"{source}:/root/fedhft",
            "-v", f"{folder}/certs:/root/certs:ro", "-v", f"{folder}/model:/srv/fedhft/models:ro", edge,
        ),
    ):  # fmt: skip
        made = Box(folder, Operator(SERVER, folder / "certs/operator/ops", MODEL))
        probe = ("exec", SERVER, "fedhft", "probe")
        until("the aggregator is ready", lambda: podman(*probe, check=False).returncode == 0, 90, 1.0)
        until("systemd runs", lambda: "running" in made.sh("systemctl is-system-running", check=False), 60)
        try:
            yield made
        finally:
            print(made.sh("journalctl --no-pager -n 60 -o cat -u 'fedhft-agent@*'", check=False))
            print(logs(SERVER)[-3000:])


@pytest.fixture(scope="module")
def installed(box: Box) -> Box:
    """The box after the commands of the document, with a server and a model of its own in the settings."""
    box.sh(commands("Install"))
    box.sh(
        f"sed -i -e 's/^FEDHFT_SERVER=.*/FEDHFT_SERVER=aggregator.fedhft.example:50051/' "
        f"-e 's|^#FEDHFT_MODEL=.*|FEDHFT_MODEL={MODEL}|' -e 's/^#HF_HUB_OFFLINE=/HF_HUB_OFFLINE=/' "
        f"-e 's/^#FEDHFT_THREADS=.*/FEDHFT_THREADS=1/' -e 's/^FEDHFT_LEAST_UPDATES=.*//' /etc/fedhft/{CLIENT}/agent.env"
    )
    box.operator.submit(box.folder, "edge", rounds=4, clients=1)
    return box


def test_the_unit_is_valid_and_hardly_exposed(box: Box) -> None:
    box.sh("cp deploy/systemd/fedhft-agent@.service /etc/systemd/system/; printf 'g fedhft -' | systemd-sysusers -")
    assert box.sh("systemd-analyze verify fedhft-agent@firm-01.service").strip() == ""
    told = box.sh("systemd-analyze security --no-pager --offline=true /etc/systemd/system/fedhft-agent@.service")
    found = re.search(r"Overall exposure level for \S+: (\S+)", told)
    assert found is not None, told
    print(found[0])
    assert float(found[1]) <= 3.0


def test_an_agent_joins_delivers_stops_and_goes_on_with_its_round(installed: Box) -> None:
    box, ops = installed, installed.operator
    box.sh(commands("Start"))
    assert box.shown(CLIENT, "SubState") == "running", box.journal(CLIENT)
    assert "0 failed" in box.journal(CLIENT)
    address = address_of(SERVER, NETWORK)
    until("it has delivered an update", lambda: accepted(address) > 0, 240, 0.1)
    box.sh(f"systemctl stop fedhft-agent@{CLIENT}")
    stopped = {name: box.shown(CLIENT, name) for name in ("ExecMainStatus", "Result", "ActiveState")}
    assert stopped == {"ExecMainStatus": "0", "Result": "success", "ActiveState": "inactive"}
    before = ops.job("edge")
    assert before["status"] == "running", "the job was over before the agent was stopped"
    box.start(CLIENT)
    ops.fedhft("job", "watch", "edge")
    after = ops.job("edge")
    assert (after["status"], after["rounds_done"]) == ("completed", 4)
    assert all(each.get("extensions", 0) == 0 for each in after["history"])
    assert box.shown(CLIENT, "SubState") == "running"
    assert box.sh(f"stat -c '%a' /var/lib/fedhft/{CLIENT}/").strip() == "700"


@pytest.mark.parametrize(
    ("client", "certificate_of", "code"),
    [
        ("Firm", CLIENT, ErrorCode.INVALID_ARGUMENT),
        ("firm-03", "firm-02", ErrorCode.IDENTITY_MISMATCH),
    ],
)
def test_a_wrong_name_fails_and_is_not_restarted(
    installed: Box, client: str, certificate_of: str, code: ErrorCode
) -> None:
    box = installed
    box.add(client, certificate_of)
    box.start(client)
    until("it has failed", lambda: box.shown(client, "ActiveState") == "failed", 180)
    assert box.shown(client, "ExecMainStatus") == str(OUTCOMES[code].exit_code)
    assert client in box.journal(client)
    # `failed` is the state of a unit that is not to be restarted; one that waits for it is `activating`.
    assert (box.shown(client, "SubState"), box.shown(client, "NRestarts")) == ("failed", "0")


def test_missing_data_fails_before_the_start_and_the_journal_says_why(installed: Box) -> None:
    box = installed
    box.add("firm-02", "firm-02")
    box.sh("sed -i 's|^FEDHFT_DATA=.*|FEDHFT_DATA=/srv/fedhft/firm-02/none.jsonl|' /etc/fedhft/firm-02/agent.env")
    assert box.shown("firm-02", "RestartUSec") == "30s"
    drop_in = "/etc/systemd/system/fedhft-agent@firm-02.service.d"  # a test need not wait for as long as a person
    box.sh(f"mkdir {drop_in}; printf '[Service]\\nRestartSec=5\\n' > {drop_in}/soon.conf; systemctl daemon-reload")
    box.start("firm-02")
    assert box.settle("firm-02") == "auto-restart"
    assert re.search(r"status=15", box.shown("firm-02", "ExecStartPreEx"))
    assert box.shown("firm-02", "ExecMainStartTimestamp") == "", "the agent itself was started"
    (line,) = [line for line in box.journal("firm-02").splitlines() if line.startswith("failed   data")]
    assert "/srv/fedhft/firm-02/none.jsonl" in line
    # The rows appear, a disk mounted late for instance: the next attempt succeeds by itself.
    box.sh(
        "install -d -m 750 -g fedhft /srv/fedhft/firm-02\n"
        "install -m 640 -g fedhft train.jsonl /srv/fedhft/firm-02/none.jsonl"
    )
    until("it runs", lambda: box.shown("firm-02", "SubState") == "running", 120)
