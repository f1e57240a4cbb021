"""One pass of a model over a loader, with every batch counted once."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from neurocollapse.data.batches import Batch, moved, split_batch
from neurocollapse.hooks import CaptureError, CaptureWarning, Recorder, SiteKey
from neurocollapse.passes.checkpoint import Checkpoint, batch_digest, deferred_interrupt
from neurocollapse.passes.moments import MomentStream
from neurocollapse.statistics import LayerRecord, check_labels, one_hot_columns

INPUT = SiteKey(-1, 0)
"""Key of the network's input, which comes from the loader and not from a hook."""


class Run:
    """One pass over a loader: batches through the recorder into the stream, and the stream into its file.

    Parameters
    ----------
    recorder, stream, checkpoint
        What takes the features, what counts them, and where the finished part is kept.
    callee : torch.nn.Module
        What to call: the recorder's model, or what wraps it.
    device : torch.device
        Where the inputs go.
    label_fn : callable or None
        Labels of a batch.
    include_input : bool
        Count the network's input as layer 0.
    num_unrepeated : int or None
        How many of the loader's samples count; those after them are repeats.
    """

    def __init__(
        self,
        recorder: Recorder,
        stream: MomentStream,
        checkpoint: Checkpoint,
        *,
        callee: nn.Module,
        device: torch.device,
        label_fn: Callable[[Any], Any] | None,
        include_input: bool,
        num_unrepeated: int | None,
    ) -> None:
        self.recorder = recorder
        self.stream = stream
        self.checkpoint = checkpoint
        self.callee = callee
        self.device = device
        self.label_fn = label_fn
        self.include_input = include_input
        self.num_unrepeated = num_unrepeated
        self._settled = False

    def over(self, loader: Iterable[Any], *, progress: bool) -> None:
        """Count every batch; save what is new however the pass ends."""
        self.checkpoint.load(self.stream)
        finished = self.stream.num_batches
        try:
            with progress_bar(loader, progress) as bar:
                self._count_all(bar, finished)
        finally:
            if self.stream.num_batches > finished:
                self.checkpoint.save(self.stream)

    def ordered_records(self) -> dict[SiteKey, LayerRecord]:
        """Records of the sites that were counted, by depth."""
        records = self.checkpoint.records
        return {key: records[key] for key in sorted(self.stream.accumulators, key=lambda key: records[key].depth)}

    def _count_all(self, bar: Any, finished: int) -> None:
        """Pass over the batches of an earlier run, once it is certain that they are the same, and count the others."""
        index, digest = 0, 0
        for batch in bar:
            parts = split_batch(batch, self.recorder.model, label_fn=self.label_fn)
            labels = checked_labels(parts, self.stream.num_classes if self.stream.fixed_classes else None)
            if not len(labels):
                continue  # an empty batch holds nothing to count, and models may fail on it
            if self.checkpoint.path:  # before the model runs, which may change its inputs in place
                digest = batch_digest(parts.tensors, labels, digest)
            if index >= finished:
                with deferred_interrupt() if self.checkpoint.path else nullcontext():
                    self._count(parts, labels)
                    self.checkpoint.finish_batch(self.stream, digest)
                if index == 0 and not bar.disable:
                    bar.write(repr(self.stream.plan(self.checkpoint.records)), file=sys.stderr)
            index += 1
            if index == finished:
                self.checkpoint.go_on_after(digest)
        if index < finished:
            self.checkpoint.go_on_after(digest)

    def _count(self, parts: Batch, labels: Tensor) -> None:
        """Run the model on one batch, with every chosen layer counted from inside its hook."""
        args, kwargs = moved(parts.args, self.device), moved(parts.kwargs, self.device)
        left = len(labels) if self.num_unrepeated is None else self.num_unrepeated - self.stream.num_samples
        columns = one_hot_columns(parts.labels)
        self.stream.begin(labels[:left], self.checkpoint.records, num_classes=columns)
        if self.include_input:
            self.stream.add(INPUT, flat_input(parts, len(labels)).to(self.device), 1)
        self.recorder.expect(len(labels))
        self.callee(*args, **kwargs)
        if not self._settled:
            self._settle(parts)
        self._warn_of_padding(parts)
        self.stream.end(self.checkpoint.records)

    def _settle(self, parts: Batch) -> None:
        """After the first forward pass: what is known of each layer."""
        records = {
            key: LayerRecord(
                name=site.name,
                depth=site.depth + 1,
                module_type=site.module_type,
                layout=site.layout,
                pooling=site.pooling,
                feature_dtype=str(site.dtype).removeprefix("torch."),
                positions=site.positions,
            )
            for key, site in self.recorder.sites.items()
        }
        if self.include_input:
            dtype = str(_float_input(parts).dtype).removeprefix("torch.")
            records[INPUT] = LayerRecord("input", 0, "Input", pooling="flatten", feature_dtype=dtype)
        names = [record.name for record in records.values()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CaptureError(f"there are two layers named {twice!r}; give one an alias: layers={{'alias': selector}}")
        self.checkpoint.records, self.checkpoint.skipped = records, self.recorder.skipped
        self._settled = True

    def _warn_of_padding(self, parts: Batch) -> None:
        """Say once that padded tokens are averaged with the others."""
        mask, notes = parts.kwargs.get("attention_mask"), self.checkpoint.notes
        if notes or not isinstance(mask, Tensor) or bool(mask.all()):
            return
        records = self.checkpoint.records.values()
        if any(record.layout == "tokens" and record.pooling in ("mean", "max") for record in records):
            notes.append("batches have padding, and padded tokens take part in pool='mean' and 'max'; pass a callable")
            warnings.warn(notes[0], CaptureWarning, stacklevel=2)


def device_of(model: nn.Module, requested: torch.device | str | None) -> torch.device:
    """Where inputs go: the requested device, which must be where the model is, or the model's own."""
    first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    own = torch.device("cpu") if first is None else first.device
    if requested is None:
        return own
    try:
        device = torch.device(requested)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'`device` must name a device such as "cpu" or "cuda:0", got {requested!r}') from error
    if first is not None and (device.type != own.type or device.index not in (None, own.index)):
        raise ValueError(f"`device` is {device}, but the model is on {own}; call model.to({str(device)!r}) first")
    return device


def callee_of(model: nn.Module, inner: nn.Module) -> nn.Module:
    """What to call: FSDP gathers weights in its own forward; that of DDP would wait for ranks with no batch left."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    sharded = fsdp is not None and any(isinstance(part, fsdp.FullyShardedDataParallel) for part in model.modules())
    return model if sharded else inner


@contextmanager
def undisturbed(model: nn.Module, mode: str, device: torch.device) -> Iterator[None]:
    """Run the model in a mode and without gradients; put back every module's own mode and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        try:
            if mode != "unchanged":
                model.train(mode == "train")
            yield
        finally:
            for module, training in modes:
                module.training = training


def checked_labels(parts: Batch, num_classes: int | None) -> Tensor:
    """The checked labels of a batch, as many as one of the inputs has samples (in axis 1 where sequences lead)."""
    labels = check_labels(parts.labels, num_classes=num_classes)
    shapes = [tensor.shape for tensor in parts.tensors if tensor.dim()]
    fits = any(len(labels) in (shape[0], *(shape[1:2] if len(shape) > 2 else ())) for shape in shapes)
    return labels if fits or not shapes else check_labels(labels, num_samples=shapes[0][0])


def flat_input(parts: Batch, num_samples: int) -> Tensor:
    """The input as (samples, features), at least float32."""
    tensor = _float_input(parts)
    if tensor.shape[:1] != (num_samples,):
        raise ValueError(f"`include_input` needs samples first, got an input of shape {tuple(tensor.shape)}")
    return tensor.reshape(num_samples, -1).to(torch.promote_types(tensor.dtype, torch.float32))


def progress_bar(loader: Iterable[Any], progress: bool, description: str = "collect") -> Any:
    """A progress bar over batches: on a terminal or in a notebook only."""
    visible = progress and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(loader, desc=description, unit="batch", disable=not visible)


def _float_input(parts: Batch) -> Tensor:
    """The first floating-point tensor that the model receives."""
    for tensor in parts.tensors:
        if tensor.is_floating_point():
            return tensor
    raise ValueError("`include_input` needs a floating-point input; this model's inputs are integers or not tensors")
