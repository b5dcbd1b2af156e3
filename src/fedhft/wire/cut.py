"""Cutting a blob: some of its tensors as a blob of their own, with every value bit for bit as in the whole.

Values are not decoded and coded again: the largest of an int8 group was rounded, and its scale would follow from what
it was rounded to, which gives other values now and then. Groups never reach from one tensor into the next, so codes
and scales are taken over as they are, and only rows and the entropy stage are written anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fedhft.adapter import AdapterSchema, TensorKey
from fedhft.v1 import adapter_pb2
from fedhft.v1 import tensor_pb2 as pb
from fedhft.wire import entropy
from fedhft.wire.codec import decode, streams_of, write_layout
from fedhft.wire.values import group_count


def cut(data: bytes, schema: AdapterSchema, parts: Sequence[Callable[[TensorKey], bool]]) -> list[bytes]:
    """For each of `parts`, the tensors of a blob that it says yes to, as a blob; b"" where there are none.

    data: a serialised AdapterBlob. Equal input gives equal bytes. Raises what `decode` raises.
    """
    whole = adapter_pb2.AdapterBlob.FromString(data)
    delta = decode(data, schema, kind=int(whole.kind)).delta
    keys = list(delta.tensors)
    sizes = [delta.tensors[key].values.size for key in keys]
    streams = streams_of(whole.tensors, sizes)
    codes = _ends(sizes)
    scales = _ends([group_count([size], whole.tensors.group) if whole.tensors.scales else 0 for size in sizes])
    found = []
    for wanted in parts:
        places = [place for place, key in enumerate(keys) if wanted(key)]
        if not places:
            found.append(b"")
            continue
        block = pb.TensorBlock(
            encoding=whole.tensors.encoding,
            group=whole.tensors.group,
            scale_base=whole.tensors.scale_base,
            rank=whole.tensors.rank,
        )
        chosen = [keys[place] for place in places]
        write_layout(block, schema, chosen, [delta.tensors[key] for key in chosen])
        block.codes.extend(entropy.pack(_pieces(stream, codes, places)) for stream in streams.codes)
        block.scales.extend(entropy.pack(_pieces(stream, scales, places)) for stream in streams.scales)
        blob = adapter_pb2.AdapterBlob(
            format=whole.format,
            kind=whole.kind,
            schema_digest=whole.schema_digest,
            scope=whole.scope,
            version=whole.version,
            tensors=block,
        )
        found.append(blob.SerializeToString(deterministic=True))
    return found


def _ends(sizes: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(np.array(sizes, np.int64)).tolist()]


def _pieces(stream: bytes, ends: Sequence[int], places: Sequence[int]) -> bytes:
    return b"".join(stream[ends[place] : ends[place + 1]] for place in places)
