"""What each call of each tap gives: settled by the first forward pass, and compared with in every other."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor, nn

from neurocollapse.hooks.audit import changed_count, made_late, refuse_missing, why_silent
from neurocollapse.hooks.errors import CallCountError, CaptureError, CaptureWarning, NeverFiredError
from neurocollapse.hooks.fixed import FixedTensors
from neurocollapse.hooks.layout import BatchConflict, LayoutMemory, is_sequence_first
from neurocollapse.hooks.masks import Forward, Positions
from neurocollapse.hooks.options import Reading
from neurocollapse.hooks.plan import Plan, Site, SiteKey, Skip, make_plan
from neurocollapse.hooks.provisional import Provisional
from neurocollapse.hooks.select import LAST, Tap
from neurocollapse.support.choices import Calls
from neurocollapse.support.text import listed, visible

_LONGEST = 200
"""Characters of reasons in a warning, which has 300 with what stands around them."""
Entry = tuple[SiteKey, Plan]
"""One call of a tap, and how it is read."""


class Sites:
    """The sites of a model's taps, and the calls of the forward pass that is going on.

    A layer that was named must deliver in every forward pass. One that was swept up by a preset or a pattern is left
    out if it does not fit: in the first forward pass, or from a later one on.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    modules : mapping of str to torch.nn.Module
        All of its modules by name.
    taps : tuple of Tap
    readings : sequence of Reading
        How each tap is read.
    calls : {"all", "first", "last"}

    Attributes
    ----------
    counts : list of int
        How often each tap has fired in this forward pass.
    proposed : Provisional
        Which of the taps that were only proposed are meant.
    fixed : FixedTensors
        What does not depend on the input, in the first forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        taps: tuple[Tap, ...],
        readings: Sequence[Reading],
        calls: Calls,
    ) -> None:
        self.model, self.modules, self.taps = model, dict(modules), taps
        self.proposed = Provisional(taps, modules)
        self.fixed = FixedTensors(model)
        self._readings = readings
        self._calls = calls
        self._sequence_first = any(map(is_sequence_first, self.modules.values()))
        self._expected: list[int] = []  # calls of each tap, once the first forward pass has ended
        self._wanted: list[int] = []  # the same, but 0 for a tap that is gone
        self._needed: list[int] = []  # calls after which a tap has given all that it gives
        self._waiting = 0  # taps that have not, in this forward pass
        self._entries: list[tuple[Entry | None, ...] | None] = []  # by tap and call; no calls of a tap that is gone
        self._described: dict[SiteKey, Site] | None = None
        self._news: dict[str, str] = {}
        self.begin()

    @property
    def is_settled(self) -> bool:
        """Whether a first forward pass has ended."""
        return bool(self._entries)

    @property
    def is_complete(self) -> bool:
        """Whether every site has fired in this forward pass; never in the first one, which shows what there is."""
        return self.is_settled and not self._waiting

    def is_gone(self, index: int) -> bool:
        """Whether a tap is known to give nothing."""
        return bool(self._entries) and self._entries[index] is None

    def begin(self) -> None:
        """Start a forward pass; forget what an unfinished first one has shown."""
        self.counts = [0] * len(self.taps)
        if self.is_settled:
            self._waiting = sum(map(bool, self._needed))
            return
        self.proposed.restart()
        self._forgotten: set[SiteKey] = set()
        self._plans: dict[SiteKey, Plan | Skip] = {}
        self._gone: dict[int, CaptureError] = {}
        self._late: dict[str, str] = {}
        self._held: dict[SiteKey, tuple[Tensor, Positions]] = {}
        self._memory = LayoutMemory(sequence_first=self._sequence_first)

    def entry(self, index: int, value: Any, forward: Forward) -> Entry | None:
        """Count one call of a tap, and tell how it is read; None where it is not wanted."""
        if not self._entries:
            with self.fixed.resting():
                return self._first_entry(index, value, forward)
        entries = self._entries[index]
        if entries is None:
            return None
        call = self.counts[index]
        self.counts[index] = call + 1
        self._waiting -= call + 1 == self._needed[index]
        if call < len(entries):
            return entries[call]
        if self._calls != "first":
            self.leave_out(SiteKey(index, 0), changed_count(self.taps[index], self._wanted[index], call + 1))
        return None

    def hold(self, key: SiteKey, features: Tensor, positions: Positions) -> bool:
        """Keep features back while a later call, or another tap, may turn out to be meant; False where none can."""
        if self._entries or (self._calls != "last" and LAST not in self.taps[key.tap].when):
            return False
        self._held[key] = (features.clone(), positions)
        return True

    def observe(self, module: nn.Module, output: Any, forward: Forward) -> None:
        """Learn the layout of a module that is not tapped, in the first forward pass."""
        self.proposed.note(module, output)
        try:
            make_plan(module, output, forward.num_samples, self._memory, pool="auto", path=None, at_input=False)
        except BatchConflict:
            if not forward.announced:
                raise
        except CaptureError:
            return

    def leave_out(self, key: SiteKey, error: CaptureError) -> None:
        """Leave out a tap that no longer fits, with all its sites; raise if it was named or has never fitted.

        Raises
        ------
        CaptureError
            The error, with the layer's name in front.
        """
        if self.taps[key.tap].explicit or not self._entries:
            name = self.taps[key.tap].name if isinstance(error, CallCountError) else self.name(key)
            raise type(error)(f"layer {name!r}: {error}") from error.__cause__
        self._gone[key.tap] = error
        self._plans = {site: plan for site, plan in self._plans.items() if site.tap != key.tap}
        self._entries[key.tap] = None
        self._waiting -= self.counts[key.tap] < self._needed[key.tap]
        self._needed[key.tap] = 0
        self._wanted[key.tap] = self.counts[key.tap] = 0
        self._described = None
        self._news[self.taps[key.tap].name] = str(error)

    def finish(self, *, halted: bool = False) -> Iterable[tuple[SiteKey, Tensor, Positions]]:
        """Audit a forward pass that has ended; what was held back in the first one, and is meant.

        One that was halted behind its last site has no calls to audit.

        Raises
        ------
        NeverFiredError, LayoutError, AmbiguousOutputError
            If an explicit tap, or every match of a selector, gives no features.
        CallCountError
            If a module that was named was called a different number of times than in the first forward pass.
        """
        if not self._entries:
            return self._finish_first()
        if self.counts != self._wanted and not halted:
            for index, (count, wanted) in enumerate(zip(self.counts, self._wanted, strict=True)):
                if count != wanted:
                    self.leave_out(SiteKey(index, 0), changed_count(self.taps[index], wanted, count))
        if self._news:
            refuse_missing(self.taps, self._plans, self._gone)
            news, self._news = self._news, {}
            message = f"{len(news)} of the layers no longer fit and are left out, with all that came before: "
            warnings.warn(message + _reasons(news), CaptureWarning, stacklevel=2)
        return ()

    @property
    def described(self) -> dict[SiteKey, Site]:
        """What is known of each site, in order of first firing; the same object until a site comes or goes."""
        if self._described is None or not self.is_settled:
            counts = self._expected or self.counts
            plans = [(key, plan) for key, plan in self._plans.items() if isinstance(plan, Plan)]
            self._described = {
                key: plan.describe(self.taps[key.tap], self.name(key), key.call, counts[key.tap], depth)
                for depth, (key, plan) in enumerate(plans)
            }
        return self._described

    @property
    def skipped(self) -> dict[str, str]:
        """What is left out, and why."""
        found = {self.name(key): str(plan.error) for key, plan in self._plans.items() if isinstance(plan, Skip)}
        return found | {self.taps[index].name: str(error) for index, error in self._gone.items()} | self._late

    def name(self, key: SiteKey) -> str:
        """The shown name of a site."""
        name = self.taps[key.tap].name
        many = self._calls == "all" and (self._expected or self.counts)[key.tap] > 1
        return f"{name}#{key.call}" if many else name

    def _first_entry(self, index: int, value: Any, forward: Forward) -> Entry | None:
        """In the first forward pass: whether a tap is meant, and how its call is read."""
        if self._is_dropped(index, value):
            return None
        key = SiteKey(index, self.counts[index])
        self.counts[index] += 1
        if key in self._forgotten or (self._calls == "first" and key.call):
            return None
        plan = self._plans.get(key) or self._settle(key, value, forward)
        return None if isinstance(plan, Skip) else (key, plan)

    def _is_dropped(self, index: int, value: Any) -> bool:
        """Whether a tap that was only proposed turns out not to be meant; forget what others gave in its place."""
        tap = self.taps[index]
        if not tap.at_input:
            self.proposed.note(tap.module, value)
        gone = self.proposed.fire(index, value) if tap.when else set()
        for key in [key for key in self._plans if key.tap in gone]:
            self._forgotten.add(key)
            self._plans.pop(key)
            self._held.pop(key, None)
        return index in gone

    def _settle(self, key: SiteKey, value: Any, forward: Forward) -> Plan | Skip:
        """Find out how a site is read; what an explicit tap cannot deliver raises."""
        tap = self.taps[key.tap]
        reading = self._readings[key.tap]
        plan: Plan | Skip
        try:
            if not tap.explicit and self.fixed.holds(value):
                raise CaptureError("its first axis counts no samples: it is made of parameters and positions alone")
            plan = make_plan(
                tap.module,
                value,
                forward.num_samples,
                self._memory,
                pool=reading.pool,
                path=reading.path_for(tap, value),
                at_input=tap.at_input,
                mask=forward.mask(tap.path, tap.module),
                positions=forward.labelled_at(tap.path),
            )
        except CaptureError as error:
            if tap.explicit or (isinstance(error, BatchConflict) and not forward.announced):
                self.leave_out(key, error)
            plan = Skip(error)
        if self._calls == "last":
            self._plans.pop(SiteKey(key.tap, key.call - 1), None)
            self._held.pop(SiteKey(key.tap, key.call - 1), None)
        self._plans[key] = plan
        return plan

    def _finish_first(self) -> Iterable[tuple[SiteKey, Tensor, Positions]]:
        """Settle names and call counts, and report what gave no features."""
        self.proposed.finish(self.counts)
        dropped = self.proposed.dropped
        for index, (tap, count) in enumerate(zip(self.taps, self.counts, strict=True)):
            if count == 0 and index not in dropped:
                self._gone[index] = NeverFiredError(f"never called: {why_silent(self.model, self.modules, tap)}")
        refuse_missing(self.taps, self._plans, self._gone)
        held, self._held = self._held, {}
        self._expected = [0 if index in dropped else count for index, count in enumerate(self.counts)]
        self.counts, self._described = list(self._expected), None
        self._late = {} if all(tap.explicit for tap in self.taps) else made_late(self.model, self.modules)
        entries = [self._entries_of(index) for index in range(len(self.taps))]
        self._wanted = [0 if entry is None else count for entry, count in zip(entries, self._expected, strict=True)]
        places = [[call for call, one in enumerate(entry or ()) if one is not None] for entry in entries]
        self._needed = [calls[-1] + 1 if calls else 0 for calls in places]
        self._entries = entries  # comes last: from here on the first forward pass has ended
        if remark := self.proposed.remark:
            warnings.warn(f"'penultimate' is the model's output: {remark}", CaptureWarning, stacklevel=2)
        if skipped := self.skipped:
            message = f"no features of {len(skipped)} of the layers: {_reasons(skipped)}"
            warnings.warn(message, CaptureWarning, stacklevel=2)
        return [(key, features, positions) for key, (features, positions) in held.items()]

    def _entries_of(self, index: int) -> tuple[Entry | None, ...] | None:
        """How the calls of a tap are read from the second forward pass on; None for one that gives nothing."""
        plans = [self._plans.get(SiteKey(index, call)) for call in range(self._expected[index])]
        entries = [(SiteKey(index, call), plan) if isinstance(plan, Plan) else None for call, plan in enumerate(plans)]
        return tuple(entries) if any(entries) else None


def _reasons(skipped: Mapping[str, str]) -> str:
    """Names with reasons, each reason once, on one line of at most `_LONGEST` characters."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    entries = [visible(f"{listed(group)}: {reason}", most=_LONGEST) for reason, group in names.items()]
    count = max(1, sum(length <= _LONGEST for length in accumulate(len(entry) + 2 for entry in entries)))
    left = sum(len(group) for group in list(names.values())[count:])
    return "; ".join(entries[:count]) + (f"; and {left} more" if left else "")
