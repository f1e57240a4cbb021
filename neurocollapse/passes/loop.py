"""The one loop: it runs a model over a loader and feeds any number of sinks, every batch counted once."""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.data.batches import Batch, moved, split_batch
from neurocollapse.data.sharding import share_of
from neurocollapse.hooks import CaptureError, Positions, Recorder, SiteKey, Tap
from neurocollapse.hooks.eager import outside_autocast
from neurocollapse.hooks.masks import Masks
from neurocollapse.passes.ahead import ReadAhead, is_at_rest
from neurocollapse.passes.checkpoint import Checkpoint, Progress
from neurocollapse.passes.classes import chosen_classes
from neurocollapse.passes.digest import batch_digest, is_unsettled, option_text, weight_digest
from neurocollapse.passes.interrupt import deferred_interrupt
from neurocollapse.passes.joint_checkpoint import JointCheckpoint
from neurocollapse.passes.loaders import (
    check_loader,
    checked_labels,
    class_names,
    flat_input,
    float_input,
    logits_of,
)
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.positions import LabelMap, label_map_of, masks_of
from neurocollapse.passes.records import INPUT, records_of, site_of
from neurocollapse.passes.sink import Sink, check_sinks
from neurocollapse.statistics import ClassBatch, JointRun, one_hot_columns
from neurocollapse.support.progress import progress_bar
from neurocollapse.support.quiet import in_mode, kept_random_state


class Pass:
    """One pass of a model over a loader.

    Parameters
    ----------
    model, loader, sinks
        See `neurocollapse.passes.run_pass`.
    options : PassOptions
    name : str
        What the progress bar and the file call it.
    digests : bool
        Whether batches are to be known again also where no file is kept.
    settings : mapping
        What must not change between the parts of one run, beside options and sinks.
    announce : callable, optional
        Gives what is shown on a terminal after the first batch.
    joint : JointRun, optional
        Where the processes go through their loaders in lockstep: their files then hold the same number of batches.

    Attributes
    ----------
    recorder : Recorder
    device : torch.device
        Where the inputs go.
    progress : Progress
        How far the pass has come.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        sinks: Mapping[str, Sink],
        options: PassOptions,
        *,
        name: str,
        digests: bool = False,
        settings: Mapping[str, Any] | None = None,
        announce: Callable[[], object] | None = None,
        joint: JointRun | None = None,
    ) -> None:
        check_loader(loader)
        check_sinks(sinks)
        self.name = name
        self.loader = loader
        self.sinks = sinks
        self.options = options
        self.device = options.device_of(model)
        self.recorder = Recorder(
            model,
            options.layers,
            pool=options.pool,
            output=options.output,
            calls=options.calls,
            mask=False,
            halt=options.halt,
            sink=self._hand_over,
        )
        self.chosen = chosen_classes(self.recorder.model, loader, options)
        self.known_classes = options.num_classes or len(class_names(loader)) or None
        self.fixed_classes = self.known_classes if self.chosen is None else len(self.chosen)
        self.progress = Progress(num_classes=self.fixed_classes or 0)
        path = options.rank_path()
        self._keeps_digests = digests or path is not None or options.distributed
        found = self._settings() | dict(settings or {}) if path else {}
        self._checkpoint = (
            Checkpoint(path, found, self.device) if joint is None else JointCheckpoint(path, found, self.device, joint)
        )
        self._callee = _callee_of(model, self.recorder.model)
        self._num_unrepeated = share_of(loader).num_unrepeated if options.distributed else None
        self._announce = announce
        self._sites: dict[SiteKey, str] = {}
        self._batch: ClassBatch | None = None
        self._map: LabelMap | None = None
        self._known: Mapping[SiteKey, object] | None = None  # the recorder's sites that `progress.layers` follows
        self._dropped: set[str] = set()
        self._torn = False  # whether some sinks or layers may have counted a batch that others have not

    def run(self) -> dict[str, Any]:
        """Hand every batch to the sinks, save what is new however the pass ends, and give the sinks' results."""
        for sink in self.sinks.values():
            sink.start(self.progress.layers, self.device)
        self._checkpoint.load(self.progress, self.sinks)
        try:
            self._run_model()
        finally:
            self.recorder.close()  # where an interrupt has kept the recorder's block from doing it
        if not self.progress.num_samples and not self.options.distributed:
            raise ValueError("the loader gave no samples; check that it is not empty or already used up")
        with torch.inference_mode(False):  # results made in inference mode could not be used with autograd outside it
            return {name: sink.result() for name, sink in self.sinks.items()}

    def _run_model(self) -> None:
        """Use the model: who owns it is settled before its mode changes."""
        mode = in_mode(self.recorder.model, self.options.mode)
        with self.recorder, kept_random_state(self.device), torch.no_grad(), mode:
            self._count_and_save()

    def _count_and_save(self) -> None:
        """Hand every batch to the sinks, and save what is new however that ends."""
        finished, steps = self.progress.num_batches, self.progress.num_steps
        try:
            with progress_bar(
                self.loader, shown=self.options.progress, in_notebooks=True, desc=self.name, unit="batch"
            ) as bar:
                self._count_all(bar, finished)
            self._follow_others()
        finally:
            if self._torn:
                self._checkpoint.save_asked()
            elif self.progress.num_steps > steps:
                self._checkpoint.save(self.progress, self.sinks)

    def _follow_others(self) -> None:
        """Take part in the batches of other processes, where sinks count them together."""
        while True:
            self._torn = True
            others = [sink.idle(finished=True) for sink in self.sinks.values()]
            self._torn = False
            if not any(others):
                return
            self.progress.num_steps += 1
            self._checkpoint.finish_batch(self.progress, self.sinks)

    def tap_of(self, site: str) -> Tap | None:
        """The tap that a site belongs to; None for the network's input."""
        return None if site == site_of(INPUT) else self.recorder.taps[int(site.partition(".")[0])]

    def _settings(self) -> dict[str, Any]:
        """What a file must have in common with this run to be continued."""
        options = self.options
        common = {
            "pass": self.name,
            "model": type(self.recorder.model).__name__,
            "weights": None if is_unsettled(self.recorder.model) else weight_digest(self.recorder.model, options.mode),
            "layers": [[tap.name, tap.path, tap.at_input] for tap in self.recorder.taps],
            "pool": option_text(options.pool),
            "output": option_text(options.output),
            "calls": options.calls,
            "mode": options.mode,
            "num_classes": options.num_classes,
            "classes": None if self.chosen is None else self.chosen.labels,
            "mask": [options.mask, option_text(options.mask_fn), options.ignore_index],
            "include_input": options.include_input,
            "sinks": {name: type(sink).__qualname__ for name, sink in self.sinks.items()},
        }
        return common | {
            f"{setting} of {name}": value
            for name, sink in self.sinks.items()
            for setting, value in sink.settings.items()
        }

    def _count_all(self, bar: Any, finished: int) -> None:
        """Pass over the batches of an earlier run, once it is certain that they are the same, and count the others."""
        if self.device.type == "cpu" or (self._checkpoint.path and not is_at_rest(self.loader, self.options)):
            self._count_each(bar, self.options, bar, finished)
            return
        ahead = ReadAhead(self.loader, self.options, digests=bool(self._keeps_digests))
        with closing(ahead.over(bar)) as batches:  # an error that is kept would keep the copies of the batches, too
            self._count_each(batches, ahead.options, bar, finished)

    def _count_each(self, batches: Iterable[Any], options: PassOptions, bar: Any, finished: int) -> None:
        """Count batches, those that are finished apart."""
        index, digest = 0, 0
        for batch in batches:
            parts = split_batch(batch, self.recorder.model, label_fn=options.label_fn)
            masks = masks_of(batch, parts, self.recorder.model, options)
            found = label_map_of(parts, masks, options, self.known_classes)
            labels = checked_labels(parts, self.known_classes) if found is None else found.labels
            if not len(labels):
                continue  # an empty batch holds nothing to count, and models may fail on it
            if self._keeps_digests:  # before the model runs, which may change its inputs in place
                digest = batch_digest(parts.tensors, labels, digest)
            if index >= finished:
                with deferred_interrupt() if self._checkpoint.path else nullcontext():
                    self._count(parts, labels, masks, found)
                    self.progress.digest = digest
                    self._checkpoint.finish_batch(self.progress, self.sinks)
                    self._torn = False
                if index == 0 and self._announce is not None and not bar.disable:
                    bar.write(repr(self._announce()), file=sys.stderr)
            index += 1
            if index == finished:
                self._checkpoint.check_repeated(digest, self.progress)
            if index >= finished and all(sink.full for sink in self.sinks.values()):
                return
        if index < finished:
            self._checkpoint.check_repeated(digest, self.progress)

    def _count(self, parts: Batch, labels: Tensor, masks: Masks, found: LabelMap | None) -> None:
        """Run the model on one batch, with every chosen layer handed over from inside its hook."""
        args = tuple(moved(part, self.device) for part in parts.args)
        kwargs = {name: moved(part, self.device) for name, part in parts.kwargs.items()}
        left = len(labels) if self._num_unrepeated is None else self._num_unrepeated - self.progress.num_seen
        others = 0
        if self.chosen is not None:
            found, others = self.chosen.applied(labels, None if found is None else found.counts)
        if found is None:
            batch = self._begun(labels[:left], one_hot_columns(parts.labels))
        else:
            found.counts[max(0, left) :] = False
            batch = self._begun(found.labels[found.counts], 0, found.counts)
            if batch is not None:
                found.base = batch
        self._batch, self._map = batch, found
        if self.options.include_input:
            features = flat_input(replace(parts, args=args, kwargs=kwargs), len(labels))
            with outside_autocast(features):
                self._hand_over(INPUT, features, Positions())
        labelled = None if found is None else found.shape or None
        output = self.recorder.run(self._callee, args, kwargs, len(labels), masks=masks, labelled=labelled)
        if self.recorder.sites is not self._known:
            self._settle(parts)
        self._torn = True
        if batch is None:
            for sink in self.sinks.values():
                sink.idle(finished=False)
        else:
            counts = None if found is None else found.counts
            output = None if self.options.halt else output  # that of the first batch is there all the same
            logits = logits_of(output, len(labels), count=len(batch.labels), counts=counts)
            logits = logits if self.chosen is None else self.chosen.of_logits(logits)
            with outside_autocast(batch.labels if logits is None else logits):
                for sink in self.sinks.values():
                    sink.end(logits)
            self.progress.num_samples += len(labels[:left]) if labelled or found is None else len(batch.labels)
            self.progress.num_classes = batch.num_classes
        self.progress.num_batches += 1
        self.progress.num_steps += 1
        self.progress.num_others += others
        self.progress.num_seen += len(labels[:left])
        self._batch = None

    def _begun(self, labels: Tensor, num_classes: int, counted: Tensor | None = None) -> ClassBatch | None:
        """The labels that count, once every sink has agreed to them; None where there are none.

        `num_classes` is what the batch says of their number beside the labels that occur, and `counted` which of its
        labels these are.
        """
        if not len(labels):
            return None
        if self.fixed_classes is None:
            num_classes = max(self.progress.num_classes, num_classes, int(labels.max()) + 1)
        batch = ClassBatch(labels, self.fixed_classes or num_classes, counted=counted, number=self.progress.num_batches)
        for sink in self.sinks.values():
            sink.begin(batch)
        return batch

    def _hand_over(self, key: SiteKey, features: Tensor, positions: Positions) -> None:
        """Give one layer's features to every sink: called inside the hook, before the model's next operation."""
        if self._batch is None:
            return
        if self._map is not None:
            rows, chosen = self._map.rows(positions)
            features = features.index_select(0, rows.sent(chosen, features.device))
        else:
            batch, mask = self._batch, positions.mask
            if mask is not None:
                rows = batch.kept(mask)
            else:
                rows = batch.repeated(positions.number) if positions.shape else batch
            # What a padding sampler repeats comes last and has no label here.
            if features.shape[0] > rows.labels.shape[0]:
                features = features[: len(rows.labels)]
        site = self._sites.get(key) or self._sites.setdefault(key, site_of(key))
        if site in self._dropped:
            return
        self._torn = True
        for sink in self.sinks.values():
            sink.add(site, features, rows)

    def _settle(self, parts: Batch) -> None:
        """What is known of each layer, after the first forward pass and whenever a layer no longer fits.

        A layer that is missing from batches which were counted earlier, perhaps in another process, does not come back.
        """
        found = records_of(self.recorder.sites, float_input(parts) if self.options.include_input else None)
        before = self.progress.layers
        kept = [site for site in found if not self.progress.num_batches or site in before]
        names = [found[site].name for site in kept]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CaptureError(f"there are two layers named {twice!r}; give one an alias: layers={{'alias': selector}}")
        for site in (before.keys() | found.keys()).difference(kept):
            self._dropped.add(site)
            for sink in self.sinks.values():
                sink.drop(site)
        before.clear()
        before.update(
            (site, replace(found[site], depth=depth)) for depth, site in enumerate(kept, 1 - self.options.include_input)
        )
        self.progress.skipped |= self.recorder.skipped
        if self._checkpoint.lacks_weights:
            self._checkpoint.settings["weights"] = weight_digest(self.recorder.model, self.options.mode)
        self._known = self.recorder.sites


def _callee_of(model: nn.Module, inner: nn.Module) -> nn.Module:
    """What to call: FSDP gathers weights in its own forward; that of DDP would wait for ranks with no batch left."""
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    sharded = fsdp is not None and any(isinstance(part, fsdp.FullyShardedDataParallel) for part in model.modules())
    return model if sharded else inner
