"""`fedhft simulate`: a job whose clients are all in one process, without sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedhft.cli.output import Report, ReportOption, print_json
from fedhft.errors import ErrorCode, FedhftError


def simulate_job(
    file: Annotated[Path, typer.Argument(help="Job file, TOML.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train and validation (.jsonl, .csv or .parquet) and meta.json.",
            show_default="the demo's generated corpus",
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="Number of clients.", show_default="those the job names, else 8")
    ] = None,
    per_client: Annotated[int, typer.Option(help="Rows per client; a fifth of them is held out.")] = 200,
    partition: Annotated[str, typer.Option(help="How --data is partitioned: dirichlet, groups or iid.")] = "dirichlet",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration; smaller means more skew.")] = 1.0,
    groups: Annotated[int, typer.Option(help="Hidden groups, each with its own meaning of the labels.")] = 2,
    model: Annotated[
        str | None, typer.Option(help="Folder of the base model.", show_default="what the job names")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", help="Folder for the adapters, as `fedhft job export` writes them.", show_default="none"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    devices: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of device profiles: how long work takes on them and their links, on a virtual clock.",
            show_default="no time passes",
        ),
    ] = None,
    training: Annotated[
        bool,
        typer.Option(
            "--training/--no-training",
            help="Whether clients train; without that they only take the time for it, to study plans of many devices.",
        ),
    ] = True,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which outputs of layers that are not trained are kept, to be worked out once.",
            show_default="nowhere",
        ),
    ] = None,
    cache_size: Annotated[str, typer.Option(help="Most that the cache may take of the disk.")] = "2GiB",
    threads: Annotated[int, typer.Option(help="Threads of tensor operations; with 1, runs repeat bit for bit.")] = 1,
    output: ReportOption = Report.TABLE,
) -> None:
    """Run a job in this process, without sockets: the same rounds, folds and local training, for hundreds of clients.

    Prints what `fedhft demo` prints; figures of sockets and processes are null.
    """
    import os

    from rich.console import Console

    from fedhft.cli.demo import parse_partition, print_summary
    from fedhft.cli.job_views import ending
    from fedhft.job import read_job
    from fedhft.local.base_model import model_for
    from fedhft.process.device_name import parse_device
    from fedhft.reporting.result import DemoResult
    from fedhft.reporting.table import RoundTable

    parse_device(device)
    size = _size(cache_size)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported, which is below
    from fedhft.simulation.method_run import rows_for, run_simulated
    from fedhft.simulation.run import Machine

    kind = parse_partition(partition)
    spec = read_job(file)
    rows = rows_for(spec, data, clients, per_client=per_client, kind=kind, alpha=alpha, groups=groups)
    console = Console(stderr=output is Report.JSON)
    found = model_for(spec.model.name, model)
    machine = Machine(device, cache, size)
    with RoundTable(console) as table:
        run = run_simulated(
            spec,
            rows,
            found,
            lambda job: table.show(spec.method.preset, job),
            machine,
            devices,
            export,
            trains=training,
        )
    result = DemoResult((run.result,))
    if output is Report.JSON:
        print_json(result.as_dict())
    else:
        print_summary(console, result)
        for path in run.result.adapters:
            console.print(path, markup=False, highlight=False, soft_wrap=True)
    for line in ending(run.job):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _size(text: str) -> int:
    """Bytes of a size such as 2GiB. Raises FedhftError(INVALID_ARGUMENT)."""
    from fedhft.job_values import parse_size

    try:
        return int(str(parse_size(text)))
    except ValueError:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--cache-size", text, "is not a size", "write 512MiB or 2GiB"
        ) from None
