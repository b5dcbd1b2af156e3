"""Loading the pre-trained model and its tokenizer, with an error for each way this can fail."""

from __future__ import annotations

import json
import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Start
from fedhft.paths import expanded
from fedhft.training.device.choice import CPU, base_dtype
from fedhft.training.digest import base_digest, read_config, tokenizer_digest
from fedhft.training.fit import (
    added_prefix,
    check_complete,
    check_head,
    check_length,
    check_plain,
    check_vocabulary,
    counts_from_padding,
    padding_side,
)
from fedhft.training.lean_imports import lean_models
from fedhft.training.memory.layers import StreamedLayers
from fedhft.training.memory.skeleton import skeleton
from fedhft.training.prefix.stack import ends_alone
from fedhft.training.stored_weights import stored_dtype, stored_names, stored_tensors, stored_values
from fedhft.training.tasks import Task, task_of

_log = logging.getLogger(__name__)
_LONGEST_REASON = 500
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass
class LoadedBase:
    """A base model in memory, shared by all workers of one process whose jobs have the same `network_key`.

    key: what it was loaded for. task: the job's. model: as the task loads it, with `dtype`, on `device`.
    new_parameters: names of parameters that are not in the files (transformers drew them at random); part of the head.
    counts_positions: whether the model takes position ids and does not number positions by itself.
    network: what was attached to the model; set on first use by `Network.on`.
    """

    key: str
    task: Task
    path: Path
    model: torch.nn.Module
    tokenizer: Any
    digest: str
    tokenizer_digest: str
    new_parameters: frozenset[str]
    device: torch.device
    dtype: torch.dtype
    counts_positions: bool = False
    streamed: StreamedLayers | None = None
    """Set where only layers in training are in memory."""
    network: object | None = None


def network_key(spec: JobSpec) -> str:
    """Everything in a job that its network depends on; only jobs with equal keys can share a loaded base.

    Whole sections are used, so that a field added to one of them is covered automatically.
    """
    parts = {
        "model": spec.model.model_dump(mode="json"),
        "task": spec.task.model_dump(mode="json"),
        "adapter": spec.adapter.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "seed": spec.seed,
        "precision": spec.training.precision,
    }
    return json.dumps(parts, sort_keys=True)


def use_threads(count: int) -> None:
    """Set how many threads this process's tensor operations use. With one, training repeats bit for bit."""
    torch.set_num_threads(count)


def load_base(
    spec: JobSpec,
    path_override: str | None = None,
    *,
    device: torch.device = CPU,
    dtype: torch.dtype | None = None,
    streamed: bool = False,
) -> LoadedBase:
    """Load the job's base model from a folder or the hub; `path_override` is the agent's own folder or hub id for it.

    device: where the model is to be; dtype: what its weights are held in, None for `base_dtype`; its head is float32.
    streamed: keep only layers in training in memory, and read the others when they are run. Models whose files name
    their values otherwise than their modules do are loaded whole all the same, as are those of jobs that write to base
    weights.
    Raises FedhftError(INVALID_MODEL) when it is not a model, has no safetensors or tokenizer, has an architecture that
    the job's task cannot use, or is not the one the job pins by digest.
    """
    task = task_of(spec.task)
    path = model_folder(path_override or spec.model.name, spec.model.revision)
    check_plain(path, read_config(path))
    stored_values(path)
    digest = base_digest(path)
    if spec.model.digest is not None and digest != spec.model.digest:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: its digest is {digest}, but the job requires {spec.model.digest}; "
            f"use the same weights as the job ({spec.model.name})",
        )
    text_digest = tokenizer_digest(path)
    tokenizer = _load_tokenizer(path)
    dtype = dtype or base_dtype(device, spec, stored_dtype(path))
    streamed = streamed and spec.method.uses_adapters and spec.method.start is Start.CONTINUE
    model, new_parameters, layers = _load_model(path, task, tokenizer, dtype, device, streamed)
    table = model.get_input_embeddings()  # type: ignore[operator]
    if isinstance(table, torch.nn.Embedding):  # the configuration may say otherwise than the weights
        check_vocabulary(path, tokenizer, table.num_embeddings)
    check_length(spec, path, tokenizer, model)
    head = task.head(model, new_parameters)
    check_complete(path, model, new_parameters, head)
    check_head(path, spec, read_config(path), head, new_parameters)
    counts = "position_ids" in signature(model.forward).parameters and not counts_from_padding(model)
    # Set on the tokenizer, which is where everybody looks for it; files may not say what their model needs.
    # Padding is told apart by what the model does with it, not by its values: two layers of one that is not in memory
    # show that, and are read once.
    with nullcontext() if layers is None else ends_alone(model, layers):
        task.check_model(model)
        tokenizer.padding_side = padding_side(path, task, model, tokenizer, device=device, counts=counts)
    for name in head:  # it is trained: what a step adds would be lost in 16 bits
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.to(torch.float32)
    return LoadedBase(
        key=network_key(spec),
        task=task,
        path=path,
        model=model,
        tokenizer=tokenizer,
        digest=digest,
        tokenizer_digest=text_digest,
        new_parameters=new_parameters,
        device=device,
        dtype=dtype,
        counts_positions=counts,
        streamed=layers,
    )


def model_folder(name: str, revision: str | None) -> Path:
    """The folder of a model: `name` itself, or what the hub (or its local cache) has under it.

    Raises FedhftError(INVALID_MODEL).
    """
    path = expanded(name)
    if path.is_dir():
        return path.resolve()
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists()
    if looks_like_path:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {name}: no such folder; give a model folder or a hub id")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"model {name}: not a local folder, and the hub does not have it ({first}); "
                "check the name, or map it to a folder with --model",
            ) from error
    except ImportError as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {name}: huggingface_hub is missing: {error}") from error


def _load_tokenizer(path: Path) -> Any:
    try:
        with lean_models():
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {path}: its tokenizer cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"model {path}: its tokenizer has neither a pad nor an eos token; give it a pad token",
            )
        tokenizer.pad_token = tokenizer.eos_token  # decoders often have none; the attention mask hides it anyway
    return tokenizer


def _load_model(
    path: Path, task: Task, tokenizer: Any, dtype: torch.dtype, device: torch.device, streamed: bool
) -> tuple[torch.nn.Module, frozenset[str], StreamedLayers | None]:
    """The model, the names of parameters that its files lack, and what reads its layers, if wanted and possible."""
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # "newly initialised" is expected: the head is ours
    try:
        with lean_models():
            return _made(path, task, tokenizer, dtype, device, streamed)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        AssertionError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: cannot be loaded with {task.auto_class}: {_first_line(error)}",
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def _made(
    path: Path, task: Task, tokenizer: Any, dtype: torch.dtype, device: torch.device, streamed: bool
) -> tuple[torch.nn.Module, frozenset[str], StreamedLayers | None]:
    """As `_load_model`, with transformers' own errors."""
    config = AutoConfig.from_pretrained(str(path), local_files_only=True)
    task.configure(config)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(rows, int) and rows > 0:
        check_vocabulary(path, tokenizer, rows)  # before a padding id beyond it is built into an embedding
    config.pad_token_id = tokenizer.pad_token_id
    prefix = added_prefix(stored_names(path))
    if prefix:
        _log.warning("model %s: all names of weights begin with %r, left by a wrapper; read without it", path, prefix)
    kind = getattr(transformers, task.auto_class)
    if streamed:
        model = skeleton(lambda: kind.from_config(config, dtype=dtype))
        prefix_of_base = str(getattr(model, "base_model_prefix", ""))
        found = StreamedLayers.of(model, stored_tensors(path), prefix_of_base, dtype, device)
        if found is not None:
            return model, found[1], found[0]
    model, info = kind.from_pretrained(
        str(path),
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **({"key_mapping": {"^" + re.escape(prefix): ""}} if prefix else {}),
    )
    model.requires_grad_(False)
    model.eval()
    mismatched = {item[0] if isinstance(item, tuple) else str(item) for item in info["mismatched_keys"]}
    return model.to(device), frozenset(info["missing_keys"]) | frozenset(mismatched), None


def _first_line(error: Exception) -> str:
    """What transformers says, without its lists of everything it knows."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_REASON]
