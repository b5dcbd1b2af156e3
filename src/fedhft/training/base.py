"""Loading the pre-trained model and its tokenizer, with every way this fails named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from fedhft.adapter import AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.training.digest import base_digest, read_config, tokenizer_digest, weight_files
from fedhft.training.tasks import task_of

_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass
class LoadedBase:
    """A base model in memory, shared by all workers of one process that serve the same job.

    model: sequence classifier with the job's number of outputs, float32, on the CPU.
    new_parameters: names of parameters that the files do not hold (transformers drew them at random); part of the head.
    schema, network: what was built on the model; filled on first use by `schema.build_schema` and the workers.
    """

    path: Path
    model: torch.nn.Module
    tokenizer: Any
    digest: str
    tokenizer_digest: str
    new_parameters: frozenset[str]
    schema: AdapterSchema | None = None
    network: Any = None


def use_threads(count: int) -> None:
    """Threads that tensor operations of this process use. One thread makes training repeatable to the bit."""
    torch.set_num_threads(count)


def load_base(spec: JobSpec, path_override: str | None = None) -> LoadedBase:
    """Load the job's base model from a folder or the hub; `path_override` is the agent's own folder or hub id for it.

    Raises FedhftError(INVALID_MODEL) when it is no model, has no safetensors or tokenizer, is of a kind that cannot
    classify sequences, or is not the one the job pins by digest.
    """
    path = _resolve(path_override or spec.model.name, spec.model.revision)
    read_config(path)
    weight_files(path)
    digest = base_digest(path)
    if spec.model.digest is not None and digest != spec.model.digest:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: its digest is {digest}, the job wants {spec.model.digest}; "
            f"use the same weights as the job ({spec.model.name})",
        )
    text_digest = tokenizer_digest(path)
    tokenizer = _load_tokenizer(path)
    _check_length(spec, path, tokenizer)
    model, new_parameters = _load_model(path, spec, tokenizer)
    return LoadedBase(path, model, tokenizer, digest, text_digest, new_parameters)


def _resolve(name: str, revision: str | None) -> Path:
    path = Path(name).expanduser()
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
                f"model {name}: neither a folder here nor to be had from the hub ({first}); "
                "check the name, or map it to a folder with --model",
            ) from error
    except ImportError as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {name}: huggingface_hub is missing: {error}") from error


def _load_tokenizer(path: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise FedhftError(ErrorCode.INVALID_MODEL, f"model {path}: its tokenizer cannot be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise FedhftError(
                ErrorCode.INVALID_MODEL, f"model {path}: its tokenizer has no pad and no eos token; give it a pad token"
            )
        tokenizer.pad_token = tokenizer.eos_token  # decoders often have none; the attention mask hides it anyway
    return tokenizer


def _check_length(spec: JobSpec, path: Path, tokenizer: Any) -> None:
    """A row longer than the position table would fail deep inside the model; the job is wrong, so say it here."""
    positions = read_config(path).get("max_position_embeddings")
    longest = min(int(tokenizer.model_max_length), positions if isinstance(positions, int) and positions > 0 else 2**31)
    if spec.model.max_length > longest:
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, "model.max_length", spec.model.max_length,
            f"{path.name} reads at most {longest} tokens", f"set it to {longest} or less",
        )  # fmt: skip


def _load_model(path: Path, spec: JobSpec, tokenizer: Any) -> tuple[torch.nn.Module, frozenset[str]]:
    regression = spec.task.kind == "regression"
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # "newly initialised" is expected: the head is ours
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True)
        config.num_labels = task_of(spec.task).outputs
        config.problem_type = "regression" if regression else "single_label_classification"
        if not regression:
            config.id2label = dict(enumerate(spec.task.labels))
            config.label2id = {label: index for index, label in enumerate(spec.task.labels)}
        config.pad_token_id = tokenizer.pad_token_id
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(path),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: cannot be loaded for sequence classification: {str(error).strip() or type(error).__name__}",
        ) from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    model.requires_grad_(False)
    model.eval()
    mismatched = {item[0] if isinstance(item, tuple) else str(item) for item in info["mismatched_keys"]}
    return model, frozenset(info["missing_keys"]) | frozenset(mismatched)
