"""fedhft: federated fine-tuning of language models across machines that are not equally strong."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedhft")
except PackageNotFoundError:  # a source tree on the path without an installation
    __version__ = "0.0.0+source"

PROTOCOL_VERSION = 1
"""Version of the gRPC protocol; an agent of another version is refused at Enroll."""
