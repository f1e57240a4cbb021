"""Class moments of every layer in one pass over a loader."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import torch
from torch import distributed as dist
from torch import nn

from neurocollapse.data.labels import IGNORED
from neurocollapse.hooks import Calls
from neurocollapse.passes.checkpoint import Progress
from neurocollapse.passes.loaders import class_names
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.moments import MomentSink, NonFinite
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.processes import check_counted_once, joined, notes_before
from neurocollapse.passes.readers import readers_of
from neurocollapse.passes.shards import ShardedSink
from neurocollapse.statistics import JointRun, MomentCollection, Precision, StateBytes, kernel_on, reduce_collection
from neurocollapse.support.provenance import describe_run
from neurocollapse.support.quiet import Mode


def collect(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Any = "leaves",
    pool: Any = "auto",
    num_classes: int | None = None,
    covariance: bool = False,
    device: torch.device | str | None = None,
    mode: Mode = "eval",
    non_finite: NonFinite = "raise",
    progress: bool = True,
    resume: str | PathLike[str] | None = None,
    calls: Calls = "all",
    output: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    include_input: bool = False,
    precision: Precision = "single",
    max_memory: float | None = None,
    state_bytes: StateBytes | Literal["auto"] = "auto",
    state_dir: str | PathLike[str] | None = None,
    distributed: bool | Literal["shard"] = False,
    mask: str | Literal[False] | None = None,
    mask_fn: Callable[[Any], Any] | None = None,
    ignore_index: int = IGNORED,
    classes: int | Sequence[int] | None = None,
    halt: bool = False,
) -> MomentCollection:
    """Stream a loader through a model and return the class moments of every chosen layer.

    The model runs without gradients and is never moved to another device. Afterwards its hooks, its train/eval mode and
    torch's random state are as before, also after an error or Ctrl-C. In evaluation mode its buffers do not change
    either.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    loader : iterable of batches
        Pairs (inputs, labels), or dicts of keyword arguments with the labels among them. Where labels are on a GPU, the
        next batch is taken before one runs: a loader must not change the model between batches then.
    layers : str, type, callable or a list of them, default "leaves"
        Names, globs, regular expressions, types, predicates or presets; see `neurocollapse.hooks.select`. A layer that
        was not chosen by its name is left out, with a warning, once a batch shows that it does not fit: it is not
        called, or more often than before, or its activation has no axis of samples.
    pool : str, callable or dict, default "auto"
        How maps and tokens become one vector per sample; "auto" takes the mean. See `neurocollapse.hooks.capture`.
    num_classes : int, optional
        Number of classes. Default: the number of `classes` of the loader's dataset, else the largest label plus one.
    covariance : bool, default False
        Keep the pooled within-class scatter matrix (features × features) of every layer.
    device : torch.device or str, optional
        Where to put the inputs. Default: where the model is.
    mode : {"eval", "train", "unchanged"}, default "eval"
        Mode of the model while it is measured. In train mode batch normalisation moves its running statistics, which
        are not put back.
    non_finite : {"raise", "skip"}, default "raise"
        Features that are NaN or infinite end the run, or are left out of that layer and counted.
    progress : bool, default True
        Show a progress bar on a terminal or in a notebook.
    resume : path-like, optional
        File in which the finished part is kept. A run that finds it continues from there, with the same result to the
        last bit if the loader repeats its batches. A file of other layers, options, weights or batches is refused:
        functions are compared by name and code, batches by their labels and a sample of their inputs.
    calls : {"all", "first", "last"}, default "all"
        Which calls of a module that is called several times in one forward pass.
    output : str, int, callable or dict, optional
        Which tensor of a structured output is meant: a path ("mean", "hidden_states.3"), an index or a function; a
        dict chooses by layer name.
    label_fn : callable, optional
        Takes a batch and returns its labels; asked once, when the batch is taken, so that nothing should be kept in it
        for `pool` or the model. Default: the batch's second element, or the labels among its parts.
    include_input : bool, default False
        Count the network's input, flattened, as layer 0, named "input".
    precision : {"single", "double"}, default "single"
        "double" keeps the whole state in float64; "single" uses float32 where that is accurate enough.
    max_memory : float, optional
        Bytes that the running state may take. Default: 90 % of the free memory.
    state_bytes : {"auto", 16, 12, 8}, default "auto"
        Bytes of running state for each class and feature of layers wider than 128 in single precision. "auto" takes the
        most with which all layers fit, which is the fastest. 12 bytes are as accurate as 16; with 8, D has a relative
        error of 1e-6.
    state_dir : path-like, optional
        A folder on a disk that holds the running state, and so the moments, in place of memory; the state then takes at
        most `max_memory`, or 90 % of what is free there. Nothing is left in the folder, however the process ends.
    distributed : bool or "shard", default False
        Add up the moments of all processes of torch.distributed; samples that a sampler repeats to even out the ranks
        count once. With "shard" each process keeps some of the features, for the samples of all processes, and needs
        only that share of the memory; the result is this share, which `nc.analyze(…, distributed="shard")` measures.
    mask : str or False, optional
        The part of a batch, or the model's argument, that says which positions are real (1) and which padding (0).
        Every pooling looks at real ones only, and padding has no rows. False ignores any mask. Default:
        `attention_mask`, where the model is given one (`decoder_attention_mask` in a decoder with an input of its own).
    mask_fn : callable, optional
        Takes a batch and returns its mask, shape (samples, positions); asked as `label_fn` is. Default: see `mask`.
    ignore_index : int, default -100
        The label of positions that do not count. Labels count per position where `label_fn` is `nc.labels.next_token`
        or `nc.labels.field`, where they have the mask's shape, and where they have the shape (samples, positions, …)
        with pool="tokens" or "positions". Then every position is a sample of its class, and layers without positions
        are left out.
    classes : int or list of int, optional
        Measure only the classes with these labels, or a number of the most frequent ones, found in a first pass over
        the labels alone. Samples of other classes are left out and counted. Class k of the result is the k-th chosen.
    halt : bool, default False
        End each forward pass after the last chosen layer, so that the rest is not computed; only the first batch of a
        pass runs to its end. The numbers are the same, with two exceptions: in mode="train" the skipped layers draw no
        random numbers and update no statistics, and calls of a layer that the first batch did not have are not seen if
        they come later.

    Returns
    -------
    MomentCollection
        Mapping layer name → ClassMoments, in order of execution. Its `readers` hold weight and bias of the linear
        layers whose inputs are tapped.

    Raises
    ------
    ValueError
        For labels, features, layers or options that cannot be used, or a model that another thread captures features
        of; the message says what to do. Subclasses: LabelError, NonFiniteError, NoMatchError, NeverFiredError,
        LayoutError, AmbiguousOutputError, StateFileError; CaptureError with `halt` where a forward pass has to run to
        its end (see `neurocollapse.capture`).
    MemoryPlanError
        If the state would not fit in memory.

    Examples
    --------
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> collect(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), batches, layers="linear")
    MomentCollection(1 layer, 4 samples, 2 classes)
    """
    with joined("collect", distributed=bool(distributed)) as run:
        options = PassOptions(
            layers=layers,
            pool=pool,
            num_classes=num_classes,
            device=device,
            mode=mode,
            progress=progress,
            resume=resume,
            calls=calls,
            output=output,
            label_fn=label_fn,
            include_input=include_input,
            distributed=distributed,
            mask=mask,
            mask_fn=mask_fn,
            ignore_index=ignore_index,
            classes=classes,
            halt=halt,
        )
        sink = moment_sink(
            distributed,
            run,
            precision=precision,
            covariance=covariance,
            non_finite=non_finite,
            max_memory=max_memory,
            state_bytes=state_bytes,
            state_dir=state_dir,
        )
        return collected(moment_pass(model, loader, sink, options), run)


def moment_sink(distributed: bool | Literal["shard"], run: JointRun | None, **settings: Any) -> MomentSink:
    """What collects class moments: of all features, or of the part that this process keeps."""
    if distributed == "shard" and run is not None:
        return ShardedSink(run, **settings)
    return MomentSink(**settings)


def moment_pass(
    model: nn.Module, loader: Iterable[Any], sink: MomentSink, options: PassOptions, *, digests: bool = False
) -> Pass:
    """The pass that collects class moments, not yet run."""
    joint = sink.joint if isinstance(sink, ShardedSink) else None
    return Pass(
        model,
        loader,
        {"moments": sink},
        options,
        name="collect",
        digests=digests,
        announce=lambda: sink.plan,
        joint=joint,
    )


def collected(moments: Pass, run: JointRun | None) -> MomentCollection:
    """Run a `moment_pass`; what it has collected, of all processes together where they are in a joint run."""
    start = time.monotonic()
    before = notes_before(moments, run)
    collection = moments.run()["moments"]
    model, progress = moments.recorder.model, moments.progress
    widths = json.loads(collection.attributes.get("num_features", "{}"))
    widths = {name: value.num_features for name, value in collection.items()} | widths
    readers, notes = readers_of(moments, widths)
    attributes = (
        describe_run(model, moments.device)
        | collection.attributes
        | {
            "mode": moments.options.mode,
            "precision": moments.sinks["moments"].settings["precision"],
            "statistics_kernel": kernel_on(moments.device).name,
            "num_samples": progress.num_samples,
            "class_names": json.dumps(_names_of(moments)),
            "skipped_layers": json.dumps(progress.skipped),
            "warnings": json.dumps(before + progress.notes + notes + _others(progress)),
            "elapsed_seconds": round(time.monotonic() - start, 3),
        }
    )
    collection = replace(collection, attributes=attributes, readers=readers)
    if run is None:
        return collection
    if moments.options.distributed == "shard":
        attributes["num_samples"] = run.reduced_number(progress.num_samples, dist.ReduceOp.SUM)
        collection = replace(collection, attributes=attributes)
    else:
        collection = reduce_collection(collection, run)
    check_counted_once(moments, collection, run)
    return collection


def _names_of(moments: Pass) -> list[str]:
    """The names of the classes: of those that are meant, or their labels."""
    names = class_names(moments.loader)
    if moments.chosen is None:
        return names
    return [names[label] if label < len(names) else str(label) for label in moments.chosen.labels]


def _others(progress: Progress) -> list[str]:
    """A note on what was left out."""
    return [f"{progress.num_others} samples of other classes were left out"] if progress.num_others else []
