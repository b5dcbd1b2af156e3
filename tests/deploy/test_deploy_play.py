"""The translation for podman knows every kind of every rendering, and says what becomes of it."""

from __future__ import annotations

import pytest
import yaml

from tests.deploy.objects import of_kind
from tests.deploy.rendering import OVERLAYS, render
from tests.system.kube_play import CHANGED, LEFT_OUT, translate


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_kind_of_an_overlay_is_played_or_said_to_be_left_out(name: str) -> None:
    objects = render(name)
    play = translate(objects)
    said = "\n".join(play.said)
    for kind in {each["kind"] for each in objects} & {*CHANGED, *LEFT_OUT}:
        assert f" {kind}: " in said, kind
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    assert set(play.pods) == {each["metadata"]["name"] for each in workloads}
    for text in [*play.before.values(), *play.pods.values()]:
        assert {each["kind"] for each in yaml.safe_load_all(text)} <= {"ConfigMap", "Pod"}


def test_a_kind_that_nobody_thought_of_is_refused() -> None:
    with pytest.raises(ValueError, match="LimitRange"):
        translate([*render("dev"), {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "x"}}])


def test_a_check_runs_to_its_end_before_its_agent() -> None:
    play = translate(render("edge"))
    (check,) = [yaml.safe_load_all(text) for text in play.before.values()]
    pod = next(each for each in check if each["kind"] == "Pod")
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0]["command"] == ["fedhft", "agent", "check"]
    assert "initContainer" in "\n".join(play.said)
