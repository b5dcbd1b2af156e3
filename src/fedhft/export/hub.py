"""Putting exported adapters on a Hugging Face hub, through huggingface_hub, which transformers brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedhft.errors import ErrorCode, FedhftError

_LONGEST_REASON = 500


def push_to_hub(directories: Sequence[Path], repository: str, message: str) -> str:
    """Put a directory at the top of a repository, or several each in a folder of its name; returns its address.

    The repository is made, private, where there is none. Where the hub is and who asks is as huggingface_hub finds it:
    HF_ENDPOINT, HF_TOKEN or what `hf auth login` kept.
    Raises FedhftError: INVALID_ARGUMENT for what the hub refuses, SERVER_UNAVAILABLE when it cannot be reached,
    INVALID_MODEL when huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL, f"--push-to-hub needs {error.name}, which fedhft[agent] brings; install it"
        ) from error
    transport: tuple[type[Exception], ...] = (OSError, *_transport(HfHubHTTPError))
    api = HfApi()
    try:
        made = api.create_repo(repository, private=True, exist_ok=True)
        for directory in directories:
            api.upload_folder(
                repo_id=made.repo_id,
                folder_path=directory,
                path_in_repo=None if len(directories) == 1 else directory.name,
                commit_message=message,
            )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, ValueError) as error:
        raise _refused(repository, ErrorCode.INVALID_ARGUMENT, error, "check the name and HF_TOKEN") from error
    except transport as error:
        raise _refused(
            repository, ErrorCode.SERVER_UNAVAILABLE, error, "check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    return str(made)


def _transport(answered: type[Exception]) -> tuple[type[Exception], ...]:
    """Errors of the HTTP library under huggingface_hub, which has changed with its releases; answered: of an answer."""
    return tuple(kind for kind in answered.__mro__[1:] if issubclass(kind, Exception) and kind.__module__ != "builtins")


def _refused(repository: str, code: ErrorCode, error: Exception, fix: str) -> FedhftError:
    reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
    return FedhftError.field(code, "--push-to-hub", repository, reason, fix)
