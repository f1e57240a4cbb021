"""Class moments of every layer in one pass over a loader."""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from tqdm.auto import tqdm

from neurocollapse.data.batches import Batch, moved, split_batch
from neurocollapse.hooks import CaptureWarning, Recorder, SiteKey
from neurocollapse.provenance import describe_run
from neurocollapse.resume import Checkpoint, deferred_interrupt, label_digest, weight_digest
from neurocollapse.statistics import LayerRecord, MomentCollection, all_reduce, check_labels, memory_limit
from neurocollapse.stream import NON_FINITE, MomentStream, StreamOptions

MODES = ("eval", "train", "unchanged")
PRECISIONS = ("single", "double")
INPUT = SiteKey(-1, 0)
"""Key of the network's input, which comes from the loader and not from a hook."""


def collect(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Any = "leaves",
    pool: Any = "auto",
    num_classes: int | None = None,
    covariance: bool = False,
    device: torch.device | str | None = None,
    mode: str = "eval",
    non_finite: str = "raise",
    progress: bool = True,
    resume: str | PathLike[str] | None = None,
    calls: str = "all",
    output: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    include_input: bool = False,
    precision: str = "single",
    max_memory: float | None = None,
    distributed: bool = False,
) -> MomentCollection:
    """Class moments of every chosen layer, streamed over a loader at nearly the cost of the forward pass.

    The model runs without gradients. Afterwards its hooks, its train/eval mode and torch's random state are what they
    were, also after an error or Ctrl-C; it is never moved to another device.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of batches
        Pairs (inputs, labels), or dicts of keyword arguments with the labels among them.
    layers
        Names, globs, regular expressions, types, predicates or presets; see `neurocollapse.hooks.select`.
    pool : str, callable or dict
        How maps and tokens become one vector a sample; "auto" takes the mean. See `neurocollapse.hooks.capture`.
    num_classes : int, optional
        Default: what the loader's dataset says in `classes`, else the largest label that occurs plus one.
    covariance : bool
        Keep the pooled within-class scatter matrix (features × features) of every layer.
    device : torch.device or str, optional
        Where the inputs go. Default: where the model is.
    mode : {"eval", "train", "unchanged"}
        Mode of the model while it is measured.
    non_finite : {"raise", "skip"}
        Features that are NaN or infinite end the run, or are left out of that layer and counted.
    progress : bool
        Show a progress bar on a terminal or in a notebook.
    resume : path-like, optional
        File in which the finished part is kept; a run that finds it goes on from there, to the last bit if the loader
        repeats its order.
    calls : {"all", "first", "last"}
        Which calls of a module that is called several times in one forward pass.
    output : str, callable or dict, optional
        Which tensor of a structured output is meant.
    label_fn : callable, optional
        Labels of a batch, where they are not its second element.
    include_input : bool
        Count the network's input, flattened, as layer 0, named "input".
    precision : {"single", "double"}
        "double" keeps the whole state in float64.
    max_memory : float, optional
        Bytes that the running state may take. Default: 90 % of the free memory.
    distributed : bool
        Add up the moments of all processes of torch.distributed; samples that a DistributedSampler repeats to even
        out the ranks count once.

    Returns
    -------
    MomentCollection
        Mapping layer name → ClassMoments, in order of execution.

    Raises
    ------
    ValueError
        For labels, features, layers or options that cannot be used; the message says what to do. Subclasses:
        LabelError, NonFiniteError, NoMatchError, NeverFiredError, LayoutError, AmbiguousOutputError, StateFileError.
    MemoryPlanError
        If the state would not fit in memory.

    Examples
    --------
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> collect(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), batches, layers="linear")
    MomentCollection(1 layer, 4 samples, 2 classes)
    """
    _check_choices(mode=(mode, MODES), non_finite=(non_finite, NON_FINITE), precision=(precision, PRECISIONS))
    if not isinstance(loader, Iterable):
        raise TypeError(f"`loader` must be an iterable of batches, got {type(loader).__name__}")
    start = time.monotonic()
    classes = _class_names(loader)
    stream = MomentStream(
        _checked_num_classes(num_classes) or (len(classes) if classes else None),
        StreamOptions(precision, covariance, non_finite, memory_limit(_device_of(model, device), max_memory)),
    )
    recorder = Recorder(model, layers, pool=pool, output=output, calls=calls, sink=stream.add)
    place = _device_of(model, device)
    settings = {
        "model": type(recorder.model).__name__,
        "weights": weight_digest(recorder.model, buffers=mode == "eval") if resume is not None else 0,
        "layers": [tap.name for tap in recorder.taps],
        "pool": _option_text(pool),
        "output": _option_text(output),
        "calls": calls,
        "precision": precision,
        "covariance": covariance,
        "non_finite": non_finite,
        "mode": mode,
        "num_classes": num_classes,
        "include_input": include_input,
    }
    checkpoint = Checkpoint(_rank_path(resume, distributed), settings)
    run = _Run(recorder, stream, checkpoint, place, label_fn, include_input, _num_unrepeated(loader, distributed))
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([place] if place.type == "cuda" else []))
        stack.enter_context(_measured_in(recorder.model, mode))
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        run.over(loader, progress=progress)
    if not stream.num_samples and not distributed:
        raise ValueError("the loader gave no samples; check that it is not empty or already used up")
    moments, records = stream.finished(run.ordered_records())
    attributes = describe_run(recorder.model, place) | {
        "mode": mode,
        "precision": precision,
        "class_names": json.dumps(classes),
        "skipped_layers": json.dumps(recorder.skipped),
        "elapsed_seconds": round(time.monotonic() - start, 3),
    }
    collection = MomentCollection(moments, records, attributes)
    return all_reduce(collection) if distributed else collection


class _Run:
    """One pass over a loader."""

    def __init__(
        self,
        recorder: Recorder,
        stream: MomentStream,
        checkpoint: Checkpoint,
        device: torch.device,
        label_fn: Callable[[Any], Any] | None,
        include_input: bool,
        num_unrepeated: int | None,
    ) -> None:
        self.recorder = recorder
        self.stream = stream
        self.checkpoint = checkpoint
        self.device = device
        self.label_fn = label_fn
        self.include_input = include_input
        self.num_unrepeated = num_unrepeated
        self.settled = False

    def over(self, loader: Iterable[Any], *, progress: bool) -> None:
        """Count every batch; save what is finished however the pass ends."""
        self.checkpoint.load(self.stream, self.device)
        finished, digest = self.stream.num_batches, 0
        try:
            with _bar(loader, progress) as bar:
                for index, batch in enumerate(bar):
                    parts = split_batch(batch, self.recorder.model, label_fn=self.label_fn)
                    labels = self._labels(parts)
                    if index < finished:
                        digest = label_digest(labels, digest)
                        continue
                    if index == finished:
                        self.checkpoint.check_labels(digest)
                    with deferred_interrupt() if self.checkpoint.path else nullcontext():
                        self._count(parts, labels)
                    if index == 0 and not bar.disable:
                        bar.write(repr(self.stream.plan(self.checkpoint.records)), file=sys.stderr)
            if self.stream.num_batches == finished and finished:
                self.checkpoint.check_labels(digest)
        except BaseException:
            self.checkpoint.save(self.stream)
            raise
        self.checkpoint.save(self.stream)

    def ordered_records(self) -> dict[SiteKey, LayerRecord]:
        """Records of the sites that were counted, by depth."""
        records = self.checkpoint.records
        return {key: records[key] for key in sorted(self.stream.accumulators, key=lambda key: records[key].depth)}

    def _labels(self, parts: Batch) -> Tensor:
        """The checked labels of a batch, as many as it has samples."""
        fixed = self.stream.num_classes if self.stream.fixed_classes else None
        labels = check_labels(parts.labels, num_classes=fixed)
        shape = parts.tensors[0].shape if parts.tensors else labels.shape
        if labels.shape[0] not in (shape[0], *(shape[1:2] if len(shape) > 2 else ())):
            return check_labels(labels, num_samples=shape[0])
        return labels

    def _count(self, parts: Batch, labels: Tensor) -> None:
        """Run the model on one batch, with every chosen layer counted from inside its hook."""
        self.checkpoint.digest = label_digest(labels, self.checkpoint.digest) if self.checkpoint.path else 0
        args, kwargs = moved(parts.args, self.device), moved(parts.kwargs, self.device)
        left = len(labels) if self.num_unrepeated is None else self.num_unrepeated - self.stream.num_samples
        self.stream.begin(labels[:left])
        if self.include_input:
            self.stream.add(INPUT, _flat_input(parts, len(labels)).to(self.device), 1)
        self.recorder.expect(len(labels))
        self.recorder.model(*args, **kwargs)
        if not self.settled:
            self._settle(parts)
        self.stream.end(self.checkpoint.records)
        self.checkpoint.save_if_due(self.stream)

    def _settle(self, parts: Batch) -> None:
        """After the first forward pass: what is known of each layer, and a word on padding."""
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
        self.checkpoint.records = records
        self.settled = True
        mask = parts.kwargs.get("attention_mask")
        pooled = any(record.layout == "tokens" and record.pooling in ("mean", "max") for record in records.values())
        if pooled and isinstance(mask, Tensor) and not bool(mask.all()):
            message = "the batch has padding, and padded tokens take part in pool='mean' and 'max'; pass a callable"
            warnings.warn(message, CaptureWarning, stacklevel=2)


def _check_choices(**choices: tuple[str, tuple[str, ...]]) -> None:
    """Raise for an option that is none of those there are."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _checked_num_classes(num_classes: int | None) -> int | None:
    """Raise unless `num_classes` is a positive integer or None."""
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise ValueError(f"`num_classes` must be a positive integer, got {num_classes!r}")
    return num_classes


def _class_names(loader: Any) -> list[str]:
    """The class names that the loader's dataset knows, if it does."""
    classes = getattr(getattr(loader, "dataset", None), "classes", None)
    return [str(name) for name in classes] if isinstance(classes, list | tuple) else []


def _device_of(model: nn.Module, requested: torch.device | str | None) -> torch.device:
    """Where inputs go: the requested device, which must be where the model is, or the model's own."""
    first = next(iter(model.parameters()), None) if isinstance(model, nn.Module) else None
    own = torch.device("cpu") if first is None else first.device
    if requested is None:
        return own
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ValueError(f'`device` must name a device such as "cpu" or "cuda:0", got {requested!r}') from error
    if first is not None and device.type != own.type:
        raise ValueError(f"`device` is {device}, but the model is on {own}; call model.to({str(device)!r}) first")
    return device


def _rank_path(path: str | PathLike[str] | None, distributed: bool) -> str | PathLike[str] | None:
    """The resume file of this process: each rank has its own."""
    if path is None or not distributed or not torch.distributed.is_initialized():
        return path
    return f"{path}.rank{torch.distributed.get_rank()}"


def _num_unrepeated(loader: Any, distributed: bool) -> int | None:
    """Samples of this rank before a DistributedSampler repeats some to even out the ranks; None for all."""
    sampler = getattr(loader, "sampler", None)
    if not distributed or not isinstance(sampler, DistributedSampler):
        return None
    total = len(sampler.dataset)  # type: ignore[arg-type]  # a DistributedSampler has checked that it has a length
    return min(sampler.num_samples, len(range(sampler.rank, total, sampler.num_replicas)))


def _option_text(option: Any) -> str:
    """An option in words that are the same in the next process: callables by name."""
    if isinstance(option, dict):
        return str({str(name): _option_text(value) for name, value in option.items()})
    return str(getattr(option, "__qualname__", option))


def _float_input(parts: Batch) -> Tensor:
    """The first floating-point tensor that the model receives."""
    for tensor in parts.tensors:
        if tensor.is_floating_point():
            return tensor
    raise ValueError("`include_input` needs a floating-point input; this model's inputs are integers or not tensors")


def _flat_input(parts: Batch, num_samples: int) -> Tensor:
    """The input as (samples, features), at least float32."""
    tensor = _float_input(parts)
    if tensor.shape[0] != num_samples:
        raise ValueError(f"`include_input` needs samples first, got an input of shape {tuple(tensor.shape)}")
    return tensor.reshape(num_samples, -1).to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def _measured_in(model: nn.Module, mode: str) -> Iterator[None]:
    """Put the model in eval or train mode, and every module back to its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    if mode != "unchanged":
        model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _bar(loader: Iterable[Any], progress: bool) -> Any:
    """A progress bar over batches: on a terminal or in a notebook only."""
    visible = progress and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(loader, desc="collect", unit="batch", disable=not visible)
