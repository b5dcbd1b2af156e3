"""`fedhft predict`: what an exported adapter says of rows, and how well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.output import Column, Report, ReportOption, print_json, print_table

if TYPE_CHECKING:
    from fedhft.datasets.examples import Example
    from fedhft.training.tasks import Task


def predict(
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder that `fedhft job export` wrote.")],
    data: Annotated[str, typer.Option("--data", help="Rows, as an agent takes them; targets are not needed.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="File for the answers, a JSON object a line.", show_default="none")
    ] = None,
    base_path: Annotated[
        str,
        typer.Option(
            "--base-path", help="Folder of the base model on this machine.", show_default="what the adapter calls it"
        ),
    ] = "",
    device: Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    most_tokens: Annotated[
        int,
        typer.Option("--most-tokens", min=1, max=4096, help="Most tokens of an answer in words (causal-lm)."),
    ] = 64,
    output: ReportOption = Report.TABLE,
) -> None:
    """Ask an exported adapter about rows, with plain transformers and PEFT; score it where they have targets."""
    from fedhft.export.description import read_description
    from fedhft.process.device_name import parse_device
    from fedhft.training.batches import encode_rows
    from fedhft.training.device.choice import usable_device
    from fedhft.training.exported_model import ExportedModel
    from fedhft.training.tasks import task_of

    where = usable_device(parse_device(device))
    told = read_description(adapter)
    task = task_of(told.task)
    examples, known = _read(data, task)
    base = None if told.whole else base_path or told.base.name
    model = ExportedModel(adapter, task, base, told.base.revision, where)
    rows = encode_rows(
        model.tokenizer, task, examples, told.max_length, model.with_types, counts_positions=model.counts_positions
    )
    value: dict[str, Any] = {"adapter": str(adapter), "rows": len(rows), "scored": known}
    if known:
        from fedhft.training.scores import count

        counted, loss = count(task, model.forward, rows)
        floors = task.floor(rows.targets, rows.targets)
        value["loss"] = loss
        value["metrics"] = {name: {"value": counted.metric(name), "floor": floors[name]} for name in task.metrics}
    if out is not None:
        answers = model.written(rows, most_tokens) if task.writes else model.answers(rows)
        _write(out, answers)
        value["out"] = str(out)
    if output is Report.JSON:
        print_json(value)
        return
    typer.echo(f"{told.job} {told.name}: {len(rows)} rows" + ("" if known else ", without targets: nothing is scored"))
    if known:
        table = [("loss", value["loss"], None), *((n, m["value"], m["floor"]) for n, m in value["metrics"].items())]
        shown = [(name, f"{score:.4f}", "" if floor is None else f"{floor:.4f}") for name, score, floor in table]
        print_table([Column("metric"), Column("value"), Column("floor")], shown)


def _read(source: str, task: Task) -> tuple[tuple[Example, ...], bool]:
    """Rows, and whether they have targets: all of them or none. Raises FedhftError(INVALID_DATA)."""
    from fedhft.datasets.client_data import parse_rows
    from fedhft.datasets.tables import read_table
    from fedhft.errors import ErrorCode, FedhftError

    raw = list(read_table(source, "validation"))
    if not raw:
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {source}: is empty; give at least one row")
    column = task.spec.label
    known = task.blank is None or any(column in row.columns for row in raw)
    if not known:
        raw = [row._replace(columns={**row.columns, column: task.blank}) for row in raw]
    return tuple(parse_rows(raw, task)), known


def _write(out: Path, answers: list[dict[str, Any]]) -> None:
    from fedhft.errors import ErrorCode, FedhftError

    try:
        with out.open("w", encoding="utf-8") as stream:
            for number, answer in enumerate(answers, start=1):
                stream.write(json.dumps({"row": number, **answer}, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--out", str(out), f"cannot be written: {error.strerror or error}",
            "name a file in a folder that is there",
        ) from error  # fmt: skip
