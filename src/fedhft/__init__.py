"""fedhft: federated fine-tuning of language models across machines that are not equally strong."""

from typing import TYPE_CHECKING

PROTOCOL_VERSION = 2
"""Version of the gRPC protocol; an agent of another version is refused at Enroll."""

if TYPE_CHECKING:
    __version__: str
    """Version of the installed distribution."""
else:

    def __getattr__(name: str) -> str:
        """Look `__version__` up on demand: reading package metadata takes longer than importing fedhft."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("fedhft")
        except PackageNotFoundError:  # a source tree on the path without an installation
            return "0.0.0+source"
