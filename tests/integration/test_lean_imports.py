"""What a client has in memory before it has a row: nothing that only compiles, or only serves many processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import tiny_model

_CLIENT = """
import sys
import numpy as np
import torch
from fedhft.job import parse_job
from fedhft.plan import AdapterPlan
from fedhft.training.base import load_base
from fedhft.training.batches import EncodedRows
from fedhft.training.learner import train
from fedhft.training.network import Network
from fedhft.training.tasks.interface import Tokens

spec = parse_job({"name": "lean", "model": {"name": sys.argv[1], "max_length": 8}, "task": {"labels": ["a", "b"]}})
network = Network.on(load_base(spec, streamed=sys.argv[2] == "streamed"), spec)
rows = EncodedRows(tuple(Tokens(np.arange(4, dtype=np.int32)) for _ in range(4)), np.arange(4) % 2, 0)
network.load({}, 1, 0)
plan = AdapterPlan("", 1, 1.0, 1.0, 0, train_a=True, train_b=True)
train(
    network, rows, plan, {}, spec.training, learning_rate=1e-3, seed=1, importance=None, should_stop=lambda: False
)
print(*[name for name in ("torch._dynamo", "torch.distributed.tensor", "peft") if name in sys.modules])
print("sympy" in sys.modules and sys.argv[2] == "streamed")
if sys.argv[2] == "whole":  # seconds, and the same either way
    print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
"""


@pytest.mark.parametrize(("architecture", "held"), [("bert", "whole"), ("llama", "streamed")])
def test_a_round_imports_no_compiler_and_leaves_it_usable(tmp_path: Path, architecture: str, held: str) -> None:
    """transformers makes a model that it loads whole on `meta`, and arithmetic there imports sympy."""
    path = tiny_model(tmp_path / "model", architecture)
    done = subprocess.run([sys.executable, "-c", _CLIENT, str(path), held], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "False", *(["1.0"] if held == "whole" else [])]
