"""How the weight of a layer is read: by name, as it is now, and without a change to the layer."""

from collections.abc import Callable

from torch import Tensor, nn

from neurocollapse.dynamics.errors import TrackerError
from neurocollapse.hooks.weights import current


def reader(model: nn.Module, path: str, attribute: str, turn: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    """A function that finds a layer's tensor by name at every call, because a layer may be swapped, and turns it."""
    segments = path.split(".") if path else []

    def read() -> Tensor:
        try:
            module = model
            for segment in segments:  # `get_submodule` would take longer than the copy
                module = module._modules[segment]  # type: ignore[assignment]
            return turn(current(module, attribute))
        except (KeyError, AttributeError) as error:
            name = f"{path}.{attribute}" if path else attribute
            raise TrackerError(f"the model has no {name} any more; use a new tracker for another network") from error

    return read
