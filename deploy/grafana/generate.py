"""Write the dashboards of panels.py as Grafana's JSON, or list what is stale (`--check`). Needs the extra `deploy`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from deploy.grafana.model import Dashboard, Panel
from deploy.grafana.panels import DASHBOARDS

FOLDER = Path(__file__).resolve().parent
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8


def files() -> Mapping[str, str]:
    """File name -> what belongs in it."""
    return {
        f"{each.uid}.json": JSONEncoder(sort_keys=True, indent=2).encode(_built(each)) + "\n" for each in DASHBOARDS
    }


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of files under `folder` that do not match panels.py."""
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    wanted = files()
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _built(each: Dashboard) -> Any:
    builder = (
        dashboard.Dashboard(each.title)
        .uid(each.uid)
        .description(each.about)
        .tags(["fedhft"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("federation")
            .label("Federation")
            .datasource(_SOURCE)
            .query("label_values(fedhft_federation_state, federation)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    number = 0
    for title, panels in each.rows.items():
        number += 1
        builder = builder.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            builder = builder.with_panel(_panel(panel).id(number))
    return builder.build()


def _panel(panel: Panel) -> Any:
    builder: Any
    if panel.stat:
        builder = stat.Panel().text_mode(BigValueTextMode.VALUE_AND_NAME)
    else:
        builder = (
            timeseries.Panel()
            .draw_style(GraphDrawStyle.LINE)
            .line_width(1)
            .fill_opacity(0)
            .legend(
                common.VizLegendOptions()
                .display_mode(LegendDisplayMode.LIST)
                .placement(LegendPlacement.BOTTOM)
                .show_legend(True)
            )
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
    builder = (
        builder.title(panel.title)
        .description(panel.about)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.width)
        .height(_HEIGHT)
    )
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        builder = builder.with_target(target.instant() if panel.stat else target.range())
    return builder


def main() -> int:
    """Write the files, or with --check compare: 1 when stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is stale")
    if not parser.parse_args().check:
        for name, text in files().items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        return 0
    names = stale()
    for name in names:
        print(f"deploy/grafana/{name} does not match panels.py; run make monitoring", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
