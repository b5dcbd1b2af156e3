"""The `fedhft` command: one module per group of commands, each of which loads what it needs only when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedhft.cli import certs, client, config, demo, job, job_export, model, predict, probe, services, simulate
from fedhft.cli import version as version_command
from fedhft.cli.output import EARLIER_OPTIONS
from fedhft.errors import FedhftError
from fedhft.telemetry.logs import silence_grpc

app = typer.Typer(
    name="fedhft",
    help="Federated fine-tuning of language models across machines that are not equally strong.",
    epilog="Exit codes: 0 done, 2 wrong usage, 130 interrupted; every other code is listed in docs/exit-codes.md.",
    no_args_is_help=True,
    context_settings={
        "help_option_names": ["--help", "-h"],
        "token_normalize_func": lambda name: EARLIER_OPTIONS.get(name, name),
    },
    pretty_exceptions_enable=False,
)


_INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        from fedhft import PROTOCOL_VERSION, __version__

        typer.echo(f"fedhft {__version__}, protocol {PROTOCOL_VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Federated fine-tuning of language models across machines that are not equally strong."""


app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate_job)
app.command("predict")(predict.predict)
app.command("probe")(probe.probe)
app.command("version")(version_command.version)
services.add_to(app)
job.app.command("export")(job_export.export)
app.add_typer(job.app, name="job")
app.add_typer(client.app, name="client")
app.add_typer(config.app, name="config")
app.add_typer(certs.app, name="certs")
app.add_typer(model.app, name="model")


def main(arguments: list[str] | None = None) -> int:
    """Run the command (sys.argv for None); a refusal is one message on standard error and its own exit code.

    Help, wrong usage and interrupts end in SystemExit with their codes.
    """
    silence_grpc()
    try:
        app(arguments)
    except FedhftError as error:
        print(f"fedhft: {error.message}", file=sys.stderr)
        return error.outcome.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:  # where Typer does not see it, as while a context is being left
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
