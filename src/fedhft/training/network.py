"""The base model with LoRA adapters on every slot of the schema, into which tensors are loaded, trained and read back.

Built once per process; a round only copies tensors in. Start of a round:

    continue   A = A_start + dA,  B = dB                                    (factors, mean, none)
    restart    base weight += LEFT RIGHT^T (or PRODUCT), A = A_start(round), B = 0     (products)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from fedhft.adapter import AdapterSchema, Float32, MaskedDelta, MaskedMatrix, Part, RowIndex, Slot, TensorKey
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.methods import Start
from fedhft.plan import AdapterPlan
from fedhft.planning.peak import UNBOUNDED
from fedhft.training.base import LoadedBase, network_key
from fedhft.training.batches import EncodedRows, encode_rows, padded_tokens
from fedhft.training.importance import Importance
from fedhft.training.lora.attached import attach, layer_of
from fedhft.training.memory.layers import Weights
from fedhft.training.memory.reading import is_readable
from fedhft.training.prefix.cache import Arithmetic, PrefixCache, Rows
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.prefix.stack import Inputs, Stack
from fedhft.training.products import product_of
from fedhft.training.row_slices import keep_slices, make_whole, trained_parameter
from fedhft.training.schema import build_schema
from fedhft.training.stopwatch import Stopwatch
from fedhft.training.stored_weights import stored_tensors
from fedhft.training.tasks import Task

_STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_AXIS = {Part.A: 1, Part.B: 0}  # the masked axis in PEFT's orientation


class Network:
    """A base model that carries the adapters of one schema. Not safe for concurrent use; shared by workers in turn."""

    def __init__(self, base: LoadedBase, spec: JobSpec) -> None:
        self.schema: AdapterSchema = build_schema(base, spec)
        self.model = base.model
        self._base = base
        self._max_length = spec.model.max_length
        # A model may accept token types without having been trained on them: GPT-2 would add an untrained embedding.
        taken = signature(base.model.forward).parameters
        self._with_types = "token_type_ids" in taken and "token_type_ids" in base.tokenizer.model_input_names
        # Keys and values of earlier tokens are for generating text; here they would only take memory.
        self._always = {"use_cache": False} if "use_cache" in taken else {}
        self._seed = spec.seed
        self._bf16 = spec.training.precision == "bf16" or base.dtype is not torch.float32
        self._restart = spec.method.start is Start.RESTART
        self._round = 0
        self._depth = self.schema.layers
        self._rank = 0
        self._loaded: Mapping[TensorKey, Float32] = {}
        self.base_values = sum(parameter.numel() for parameter in self.model.parameters())
        """Parameters of the base model and its head, adapters not counted."""
        slots = self.schema.slots
        if slots:
            attach(self.model, slots, spec.adapter.alpha_of, spec.adapter.dropout, base.device)
        # Copies of what folding or full training overwrites, so that each round starts from exactly the base weights.
        pristine: dict[TensorKey, torch.Tensor] = {}
        if self._restart:
            for slot in slots:
                pristine[TensorKey(slot.name, Part.PRODUCT)] = layer_of(self.model, slot).weight.detach().clone()
        for parameter in self.schema.weights:
            key = TensorKey(parameter.name, Part.WEIGHT)
            pristine[key] = self.model.get_parameter(parameter.name).detach().clone()
        if spec.task.head == "keep":
            for parameter in self.schema.head:
                pristine[TensorKey(parameter.name, Part.HEAD)] = (
                    self.model.get_parameter(parameter.name).detach().clone()
                )
        self._pristine = pristine
        # With all weights in training nothing is frozen.
        self._stack = (
            None
            if self.schema.weights
            else Stack.of(self.model, self.schema.layers, self._pass, base.streamed, base.device)
        )
        self._boundary = 0
        self._cache: PrefixCache | None = None
        self.stopwatch = Stopwatch()
        self.arrangement = UNBOUNDED
        """How passes are cut to fit the memory there is."""

    @classmethod
    def on(cls, base: LoadedBase, spec: JobSpec) -> Network:
        """The network on `base`, attached on first use.

        Raises ValueError when `base` was loaded for a job whose network differs.
        """
        if base.key != network_key(spec):
            raise ValueError(
                f"the base model was loaded for a network that differs from job {spec.name}'s; load it again"
            )
        if not isinstance(base.network, cls):
            base.network = cls(base, spec)
        return base.network

    @property
    def task(self) -> Task:
        """The job's task."""
        return self._base.task

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._base.device

    @property
    def depth(self) -> int:
        """Layers, counted from the output, whose adapters are in use."""
        return self._depth

    @property
    def boundary(self) -> int:
        """Layers, counted from the input, that are frozen with all that comes before them; 0 where there are none."""
        return self._boundary

    def weights(self, depth: int) -> Weights:
        """Memory of this machine that the base model takes at a depth; none where it is in a GPU's own."""
        if self.device.type == "cuda":
            return Weights(0, 0, 0)
        streamed = self._base.streamed
        if streamed is not None:
            return streamed.weights_at(self.schema.layers - self._boundary_of(depth))
        whole = sum(parameter.nbytes for parameter in self.model.parameters())
        # On the CPU, transformers uses float32 values where they are on disk, having looked at all of them.
        found = {stored.dtype for stored in stored_tensors(self._base.path).values() if is_readable(stored)}
        same = found == {_STORED[self._base.dtype]}
        return Weights(0, whole, 0) if same and self.device.type == "cpu" else Weights(whole, 0, 0)

    def unread(self, depth: int) -> int:
        """Bytes of memory of its own that setting the model to a depth would take first."""
        streamed = self._base.streamed
        return 0 if streamed is None else streamed.unread(range(self._boundary_of(depth), self.schema.layers))

    def cache_prefix(self, folder: PrefixFolder, kept_as: torch.dtype) -> None:
        """From now on, keep what enters the boundary for each row in `folder`, as values of dtype `kept_as`."""
        if self._stack is None:
            return
        identity = {
            "base": self._base.digest,
            "tokenizer": self._base.tokenizer_digest,
            "dtype": str(self._base.dtype),
            "bf16": self._bf16,
            "device": self.device.type,
            "attention": str(getattr(self.model.config, "_attn_implementation", None)),
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
        }
        arithmetic = Arithmetic(self._pass, self.device, torch.bfloat16 if self._bf16 else self._base.dtype)
        self._cache = PrefixCache(folder, self._stack, arithmetic, identity, kept_as, lambda: self.stopwatch)

    def slots(self) -> tuple[Slot, ...]:
        """Slots inside the depth in use."""
        return tuple(slot for slot in self.schema.slots if slot.layer >= self.schema.layers - self._depth)

    def load(self, tensors: Mapping[TensorKey, Float32], depth: int, round_number: int, rank: int = 0) -> None:
        """Set the model to the job's start plus `tensors` (a mixture, as differences); slots outside `depth` get no
        adapter, those inside the first `rank` columns of A and B (0: all).

        `round_number` redraws A for restart methods; for others it has no effect.
        """
        self._loaded = tensors
        self._depth = depth
        self._rank = rank
        self._boundary = self._boundary_of(depth)
        if self._base.streamed is not None:
            self._base.streamed.hold(range(self._boundary, self.schema.layers))
        self._round = round_number if self._restart else 0
        inside = {slot.name for slot in self.slots()}
        self.model.requires_grad_(False)
        with torch.no_grad():
            for slot in self.schema.slots:
                layer = layer_of(self.model, slot)
                layer.active = slot.name in inside
                layer.resize(min(self._rank, slot.rank) if self._rank else slot.rank)
                if self._restart:
                    self._fold(slot, slot.name in inside)
                if slot.name in inside:
                    for part in (Part.A, Part.B):
                        self._copy(TensorKey(slot.name, part))
            for key in self._plain_keys():
                self._copy(key)
        self.model.requires_grad_(False)
        self.model.eval()

    def training_mode(self) -> None:
        """Dropout in what is trained, and none in the frozen prefix, whose values are the same in every pass."""
        if self._stack is None or not self._boundary:
            self.model.train()
        else:
            self._stack.train_from(self._boundary)

    @contextmanager
    def trainable(
        self, plan: AdapterPlan, rows: Mapping[TensorKey, RowIndex | None], importance: Importance | None
    ) -> Iterator[list[torch.nn.Parameter]]:
        """Enable gradients for what the plan trains, masked to `rows` (None or absent: all rows); yields parameters.

        Afterwards the model holds the trained values as plain frozen tensors. importance: is shown every whole gradient
        of A and B.
        """
        parameters: list[torch.nn.Parameter] = []
        hooks = []
        modules = []
        try:
            for key in self.trained_keys(plan):
                if key.part not in _AXIS:
                    parameter = self.model.get_parameter(key.name)
                else:
                    module = self._factor(key)
                    modules.append(module)
                    index = rows.get(key)
                    observer = None if importance is None else importance.observer(key)
                    if index is not None:
                        kept = torch.from_numpy(index.astype(np.int64)).to(self.device)
                        keep_slices(module, kept, _AXIS[key.part], observer)
                    parameter = trained_parameter(module)
                    if index is None and observer is not None:
                        parameter.requires_grad_(True)
                        hooks.append(parameter.register_hook(observer))
                parameter.requires_grad_(True)
                parameters.append(parameter)
            yield parameters
        finally:
            for hook in hooks:
                hook.remove()
            for module in modules:
                make_whole(module)
            for parameter in self.model.parameters():
                parameter.grad = None
            self.model.requires_grad_(False)
            self.model.eval()

    def trained_keys(self, plan: AdapterPlan) -> tuple[TensorKey, ...]:
        """Keys that have gradients under a plan, in schema order."""
        return tuple(key for key in self.schema.keys if plan.trains(key, self.schema))

    def value(self, key: TensorKey) -> Float32:
        """Current value of A, B (their columns in use), a head or a base parameter, in the orientation in which it
        travels; may share memory with the model.
        """
        array = _array(self._tensor(key))
        if key.part is Part.A:
            return np.ascontiguousarray(array.T)
        return array if key.part is Part.B else array.reshape(self.schema.shape(key))

    def delta(self, plan: AdapterPlan, rows: Mapping[TensorKey, RowIndex | None]) -> MaskedDelta:
        """What training changed since `load`, on the rows that were trained."""
        tensors = {
            key: MaskedMatrix.of(self.value(key) - self._start(key), rows.get(key)) for key in self.trained_keys(plan)
        }
        return MaskedDelta(tensors)

    def encode(self, rows: Sequence[Example], *, training: bool = False) -> EncodedRows:
        """Rows tokenised for this network. training: whether they are to be trained on, and so may be packed."""
        return encode_rows(
            self._base.tokenizer,
            self.task,
            rows,
            self._max_length,
            self._with_types,
            training=training,
            counts_positions=self._base.counts_positions,
        )

    def forward(self, rows: EncodedRows, index: NDArray[np.int64]) -> torch.Tensor:
        """Logits of the rows `index` that count, row after row, float32 (m x outputs), on the network's device.

        The only source of logits. Without gradients, as many rows are passed at once as the arrangement has room for.
        """
        if torch.is_grad_enabled():
            return self._forward(rows, index)
        cut = self._scoring_parts(rows, index)
        found = [self._forward(rows, part) for part in cut]
        self.stopwatch.scored += sum(padded_tokens(rows.lengths, part) for part in cut)
        return found[0] if len(found) == 1 else torch.cat(found)

    def trial(self, rows: EncodedRows) -> torch.Tensor:
        """As `forward` of all rows at once, with zeros in the place of what the cache would hand out: to see what a
        pass costs.
        """
        return self._forward(rows, np.arange(len(rows)), trial=True)

    def training_parts(self, rows: EncodedRows, index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """A batch, in parts that can be passed with gradients in the room that the arrangement has."""
        widths, places = rows.lengths[index].tolist(), rows.sizes[index].tolist()
        return [index[part] for part in self.arrangement.training_parts_of(widths, places)]

    def _scoring_parts(self, rows: Rows, index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        widths, places = rows.lengths[index].tolist(), rows.sizes[index].tolist()
        return [index[part] for part in self.arrangement.scoring_parts_of(widths, places)]

    def _forward(self, rows: EncodedRows, index: NDArray[np.int64], *, trial: bool = False) -> torch.Tensor:
        inputs = {name: tensor.to(self.device) for name, tensor in rows.inputs(index).items()}
        places = rows.places(index)
        counted = None if places is None else places.to(self.device)
        with self.stopwatch.forward.running(), self._recomputing():
            hidden = None
            if self._cache is not None and self._stack is not None and self._boundary:
                if trial:
                    hidden = torch.zeros((*inputs["input_ids"].shape, self._stack.width), dtype=self._stack.dtype)
                    hidden = hidden.to(self.device)
                else:
                    hidden = self._cache.hidden(rows, index, inputs, self._boundary)
            run = self.schema.layers - (0 if hidden is None else self._boundary)
            self.stopwatch.forward.layer_tokens += run * padded_tokens(rows.lengths, index)
            if self._stack is None:
                return self._logits(inputs, counted)
            if hidden is None:
                with self._stack.reading(range(self._boundary)):
                    return self._logits(inputs, counted)
            with self._stack.skipping(self._boundary, hidden):
                return self._logits(inputs, counted)

    @property
    def keeps_frozen_layers(self) -> bool:
        """Whether frozen layers are run once per row, and what leaves them is kept, where there are any."""
        return self._cache is not None and self._cache.serves(self._boundary)

    def prepare(self, parts: Sequence[EncodedRows], should_stop: Callable[[], bool] = lambda: False) -> None:
        """Where not all layers are in memory, pass these rows through the frozen ones that are not, a layer at a time.

        Without this, `forward` reads those layers for every batch.
        """
        if self._base.streamed is not None and self._cache is not None and self._boundary:
            with self.stopwatch.forward.running(), self.stopwatch.fill.running():
                self._cache.fill(parts, self._boundary, self._scoring_parts, should_stop)

    def _recomputing(self) -> AbstractContextManager[None]:
        if self._stack is None or not (self.arrangement.recompute and torch.is_grad_enabled()):
            return nullcontext()
        return self._stack.recomputing(self._boundary)

    def _logits(self, inputs: Inputs, places: torch.Tensor | None) -> torch.Tensor:
        with self._autocast():
            logits = self.task.logits(self.model, {**inputs, **self._always}, places)
        return logits.float()

    def _pass(self, inputs: Inputs) -> object:
        """A forward pass, of which only hidden states are of interest."""
        with self._autocast():
            return self.model(**inputs, **self._always)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _boundary_of(self, depth: int) -> int:
        """Layers below `depth`, unless something of the head is used below them (an embedding that the files lack)."""
        boundary = max(0, self.schema.layers - depth)
        if self._stack is None or not boundary:
            return 0
        head = [self.model.get_parameter(parameter.name) for parameter in self.schema.head]
        return 0 if self._stack.holds_below(boundary, head) else boundary

    # -- where things are in the model

    def _plain_keys(self) -> Iterator[TensorKey]:
        for parameter in self.schema.head:
            yield TensorKey(parameter.name, Part.HEAD)
        for parameter in self.schema.weights:
            yield TensorKey(parameter.name, Part.WEIGHT)

    def _factor(self, key: TensorKey) -> torch.nn.Module:
        side = "lora_A" if key.part is Part.A else "lora_B"
        return self.model.get_submodule(f"{key.name}.{side}")

    def _tensor(self, key: TensorKey) -> torch.Tensor:
        if key.part in _AXIS:
            return self._factor(key).get_parameter("weight")
        return self.model.get_parameter(key.name)

    # -- starting values

    def _start(self, key: TensorKey) -> Float32:
        """Value of a tensor (of A, B: its columns in use) as the round began: start plus loaded difference, float32."""
        if key.part is not Part.PRODUCT and key in self._pristine:
            start: Float32 = _array(self._pristine[key]).reshape(self.schema.shape(key))
        else:
            start = self.schema.start_of(self._seed, key, self._round if key.part is Part.A else 0)
        loaded = self._loaded.get(key)
        begun = start if loaded is None else start + loaded
        return np.ascontiguousarray(begun[:, : self._rank]) if self._rank and key.part in _AXIS else begun

    def _copy(self, key: TensorKey) -> None:
        start = self._start(key)
        target = self._tensor(key)
        values = torch.from_numpy(np.ascontiguousarray(start.T) if key.part is Part.A else start)
        target.copy_(values.reshape(target.shape).to(self.device))

    def _fold(self, slot: Slot, inside: bool) -> None:
        """base weight = pristine + LEFT RIGHT^T + PRODUCT; the factors already include alpha/r."""
        layer = layer_of(self.model, slot)
        weight = layer.weight
        pristine = self._pristine[TensorKey(slot.name, Part.PRODUCT)]
        product = product_of(self._loaded, slot) if inside else None
        if product is None:
            weight.copy_(pristine)
            return
        added = torch.from_numpy(product).to(self.device)
        weight.copy_(pristine + (added.T if layer.transposed else added))


def _array(tensor: torch.Tensor) -> Float32:
    """A tensor of the model as float32, in the model's own memory where that is possible."""
    array: Float32 = tensor.detach().to("cpu", torch.float32).numpy()
    return array
