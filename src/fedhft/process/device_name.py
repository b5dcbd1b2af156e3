"""Names of devices on a command line, without a tensor library."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.settings import flag_of

AUTO = "auto"
CPU = "cpu"
_NAME = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def parse_device(name: str, flag: str = "--device") -> str:
    """The name itself. Raises FedhftError(INVALID_ARGUMENT) unless it is auto, cpu, cuda, cuda:N or mps."""
    if _NAME.fullmatch(name):
        return name
    raise FedhftError.field(
        ErrorCode.INVALID_ARGUMENT, flag, name, "is not the name of a device", "write auto, cpu, cuda, cuda:N or mps"
    )


def _checked(value: str, info: ValidationInfo) -> str:
    return parse_device(value, flag_of(str(info.field_name)))


DeviceName = Annotated[str, AfterValidator(_checked)]
"""A setting that names a device."""
