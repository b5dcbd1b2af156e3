"""What of this process is in memory, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Residence:
    """Resident bytes. anonymous: what nothing but this process has. code: of files, weights apart. weights: of files of
    weights that are mapped.
    """

    anonymous: int
    code: int
    weights: int


def residence(maps: Path = Path("/proc/self/smaps")) -> Residence:
    """As the kernel tells it now; zeros where it does not."""
    anonymous = code = weights = 0
    name = ""
    try:
        with maps.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                field, _, value = line.partition(":")
                if field == "Rss":
                    resident = int(value.split()[0]) * 1024
                elif field == "Anonymous":
                    own = int(value.split()[0]) * 1024
                    anonymous += own
                    if name.endswith(WEIGHTS):
                        weights += resident - own
                    else:
                        code += resident - own
                elif " " in field:  # the first line of a mapping: addresses, rights, offset, device, inode, path
                    words = line.split(maxsplit=5)
                    name = words[5].strip() if len(words) > 5 else ""
    except OSError:
        return Residence(0, 0, 0)
    return Residence(anonymous, code, weights)
