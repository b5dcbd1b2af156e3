"""`fedhft model ...`: base models."""

from __future__ import annotations

from typing import Annotated

import typer

from fedhft.cli.output import Output, OutputOption, answer

app = typer.Typer(help="Base models.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Base models."""


@app.command()
def digest(
    model: Annotated[str, typer.Argument(help="Folder of a model, as save_pretrained writes it.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the digests of a base model (for a job's model.digest) and of its tokenizer."""
    from pathlib import Path

    from fedhft.training.digest import base_digest, tokenizer_digest

    path = Path(model).expanduser()
    base, tokenizer = base_digest(path), tokenizer_digest(path)
    value = {"model": model, "digest": base, "tokenizer_digest": tokenizer}
    answer(output, value, [base], lambda: typer.echo(f"model      {base}\ntokenizer  {tokenizer}"))
