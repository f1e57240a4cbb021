"""The callables that are placed on modules. In a copied or saved model they do nothing."""

from typing import Any, Protocol

from torch import nn

from neurocollapse.support.undo import Undo


class Engine(Protocol):
    """What the hooks report to."""

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model's forward pass begins.

        Parameters
        ----------
        args : tuple
            Positional arguments of the model.
        kwargs : dict
            Its named arguments.
        """

    def end(self) -> None:
        """It has ended."""

    def abort(self) -> None:
        """It has ended, also where it raised."""

    def enter(self) -> None:
        """A container that may turn out to be a leaf is called."""

    def fire(self, index: int, value: Any) -> None:
        """A tap is called.

        Parameters
        ----------
        index : int
            Which tap.
        value
            What its module returned, or was given.
        """

    def observe(self, module: nn.Module, output: Any) -> None:
        """A module that is not tapped has returned.

        Parameters
        ----------
        module : torch.nn.Module
            The module.
        output
            What it returned.
        """


class InertHook:
    """What is left of a hook in a copied or unpickled model: it does nothing."""

    def __call__(self, *args: Any) -> None:
        """Leave the model's values as they are."""


class _Hook:
    """A hook that holds the engine it reports to, and loses it when it is copied or pickled."""

    __slots__ = ("engine",)

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __reduce__(self) -> tuple[type[InertHook], tuple[()]]:
        return InertHook, ()


class StartHook(_Hook):
    """Before the root's forward."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.engine.begin(args, kwargs)


class EndHook(_Hook):
    """After the root's forward."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.engine.end()


class AbortHook(_Hook):
    """After the root's forward, also where it raised."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.engine.abort()


class EnterHook(_Hook):
    """Before the forward of a container that may turn out to be a layer."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.engine.enter()


class HintHook(_Hook):
    """After the forward of any module: shows its layout to those that do not tell theirs."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.engine.observe(module, output)


class _TapHook(_Hook):
    """A hook of one tap."""

    __slots__ = ("tap",)

    def __init__(self, engine: Engine, tap: int) -> None:
        super().__init__(engine)
        self.tap = tap


class OutputHook(_TapHook):
    """After a tapped module's forward."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.engine.fire(self.tap, output)


class InputHook(_TapHook):
    """Before a tapped module's forward; a module may be called with keywords only."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.engine.fire(self.tap, CallInputs(args, kwargs))


class CallInputs(tuple[Any, ...]):
    """The arguments of one call, by position and by name."""

    _fields: tuple[str, ...]

    def __new__(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "CallInputs":
        inputs = super().__new__(cls, (*args, *kwargs.values()))
        inputs._fields = (*map(str, range(len(args))), *kwargs)
        return inputs


def place(hook: Any, module: nn.Module, undo: Undo, *, before: bool = False, **options: bool) -> None:
    """Register a hook, before or after a module's forward, until `undo` is closed.

    torch gives the handle that takes a hook off only once the hook is on, which an interrupt may part.
    """
    undo.add(_take_off, hook, module)
    if before:
        module.register_forward_pre_hook(hook, **options)
    else:
        module.register_forward_hook(hook, **options)


def _take_off(hook: Any, module: nn.Module) -> None:
    """Remove a hook wherever it is on a module."""
    options = (
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks_with_kwargs,
        module._forward_hooks_always_called,
    )
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, placed in hooks.items() if placed is hook]:
            for option in options:
                option.pop(key, None)
            hooks.pop(key, None)
