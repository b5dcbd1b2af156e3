"""`fedhft model ...`: base models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedhft.cli.output import Output, OutputOption, answer
from fedhft.paths import expanded

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
    from fedhft.training.digest import base_digest, tokenizer_digest

    path = expanded(model)
    base, tokenizer = base_digest(path), tokenizer_digest(path)
    value = {"model": model, "digest": base, "tokenizer_digest": tokenizer}
    answer(output, value, [base], lambda: typer.echo(f"model      {base}\ntokenizer  {tokenizer}"))


class Dtype(StrEnum):
    """Values of --dtype."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .gguf file, or a folder with pickled weights.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights that are written.")] = Dtype.FLOAT32,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write a model as agents read it: safetensors, config and tokenizer."""
    from fedhft.training.convert import convert as convert_model
    from fedhft.training.digest import base_digest

    values = convert_model(expanded(source), expanded(out), dtype.value)
    found = base_digest(expanded(out))
    told = {"model": str(out), "values": values, "dtype": dtype.value, "digest": found}
    answer(output, told, [str(out)], lambda: typer.echo(f"{out}: {values:,} values in {dtype.value}, digest {found}"))
