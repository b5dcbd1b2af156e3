"""Write rules.yaml as the PrometheusRule of deploy/k8s/components/monitoring, or say that it is stale (`--check`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy/prometheus/rules.yaml"
TARGET = ROOT / "deploy/k8s/components/monitoring/prometheus-rule.yaml"
_HEAD = """\
# Generated from deploy/prometheus/rules.yaml; run `make monitoring`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fedhft
  labels:
    app.kubernetes.io/name: fedhft
    app.kubernetes.io/part-of: fedhft
"""


def text() -> str:
    """The object, as it should be."""
    spec = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return _HEAD + yaml.safe_dump({"spec": spec}, sort_keys=False, width=120)


def main() -> int:
    """Write the file, or with --check compare: 1 when stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the file is stale")
    if not parser.parse_args().check:
        TARGET.write_text(text(), encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") != text():
        print(f"{TARGET.relative_to(ROOT)} does not match rules.yaml; run make monitoring", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
