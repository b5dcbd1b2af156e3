"""Every architecture with every kind of task: what works here, and how closely it is what plain PEFT does.

    python -m benchmarks.models                        print the table (a minute or two)
    python -m benchmarks.models --out docs/models.md   write the page
    python -m benchmarks.models --families bert,llama

Every cell is a run: a federation of one client (FedIT, fp32, two rounds) on a small random model, its adapter exported
and loaded by plain PEFT, and the same training by transformers and PEFT alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from benchmarks.equality import Equality, compare
from benchmarks.families import FAMILIES, TASKS
from fedhft.errors import FedhftError

MOST_DIFFERENCE = 1e-5
_PAGE = """\
# Models and tasks

Any Hugging Face encoder, decoder or encoder-decoder that the task's auto class loads can be fine-tuned. This table is what
was seen with small random models of {count} architectures; `python -m benchmarks.models --out docs/models.md` writes it anew.

A number is the largest difference of a logit on held-out rows between a federation of one client (FedIT, fp32, full
density, two rounds) and a loop of transformers and PEFT alone; what the exported adapter answers under plain PEFT is
{exported} of the federation's own answers. Logits moved by {moved:.2f} or more in training.

{table}

{notes}

## What is checked before a row is read

| the model | is refused when |
| --- | --- |
| weights | a file is missing or cut off; a weight of the base network is not in the files, or has another shape there (`_orig_mod.` and `module.` before all names are taken off); they are quantised |
| vocabulary | the tokenizer makes ids beyond the embedding |
| positions | `model.max_length` is beyond those that the position table leaves for text |
| padding | a row's answer depends on the padding beside it, on whichever side that stands; otherwise the side is chosen so that it does not |
| causal-lm | an output depends on later tokens |
| targets | `adapter.targets` names a module that is not there; with `"auto"`, nothing is usual for the architecture: `"all-linear"` and patterns work for every one |

## Usual targets

`adapter.targets = "auto"` adapts what PEFT adapts by default:

{targets}
"""  # noqa: E501


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--out", type=Path, help="page to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    families = [family for family in arguments.families.split(",") if family]
    found = {family: {task: run(family, task) for task in TASKS} for family in families}
    page = written(found)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    cells = [cell for row in found.values() for cell in row.values() if isinstance(cell, Equality)]
    if any(max(cell.plain, cell.exported) > MOST_DIFFERENCE for cell in cells):
        raise SystemExit(1)


def run(family: str, task: str) -> Equality | str:
    """One cell: what was measured, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return compare(Path(folder), family, task)
        except FedhftError as error:
            return error.message.replace(folder, "").partition(": ")[2].partition(";")[0]
        except ValueError as error:  # transformers has no such model to write
            return str(error).splitlines()[0]


def written(found: Mapping[str, Mapping[str, Equality | str]]) -> str:
    """The page."""
    from fedhft.training.targets import USUAL

    notes: dict[str, int] = {}
    lines = ["| | " + " | ".join(TASKS) + " |", "| --- " * (len(TASKS) + 1) + "|"]
    for family, cells in found.items():
        shown = [_cell(cell, notes) for cell in cells.values()]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    measured = [cell for row in found.values() for cell in row.values() if isinstance(cell, Equality)]
    by_targets: dict[tuple[str, ...], list[str]] = {}
    for model_type, targets in USUAL.items():
        by_targets.setdefault(targets, []).append(model_type)
    usual = ["| modules | model types |", "| --- | --- |"]
    usual += [f"| {', '.join(targets)} | {', '.join(sorted(types))} |" for targets, types in by_targets.items()]
    return _PAGE.format(
        count=len(found),
        exported=_within(max((cell.exported for cell in measured), default=0.0)),
        moved=min((cell.moved for cell in measured), default=0.0),
        table="\n".join(lines),
        notes="\n".join(f"{number}. {note}" for note, number in notes.items()),
        targets="\n".join(usual),
    )


def _within(difference: float) -> str:
    return f"within {difference:.0e}" if difference else "within 0"


def _cell(cell: Equality | str, notes: dict[str, int]) -> str:
    if isinstance(cell, Equality):
        return f"{cell.plain:.0e}"
    return f"no ({notes.setdefault(_kind_of(cell), len(notes) + 1)})"


def _kind_of(reason: str) -> str:
    """The reason without what differs between architectures."""
    if "Unrecognized configuration" in reason:
        return "transformers has no such model of this architecture"
    if "reads the text on both sides" in reason:
        return "the model reads the text on both sides, so it would learn to copy the next token; refused"
    return reason


if __name__ == "__main__":
    main()
