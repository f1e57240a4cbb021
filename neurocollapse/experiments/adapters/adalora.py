"""AdaLoRA through PEFT: adapters as singular value decompositions, whose ranks are shared out during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.experiments.adapters.packages import peft

START, WARM_UP, LAST = 1.5, 0.1, 0.3
"""Rank at the start over that at the end, as PEFT's own defaults have it (12 and 8), and the parts of all steps before
ranks are taken away and after the last one is."""
ORTHOGONAL = 0.5
"""Weight of the term that keeps the singular vectors orthonormal: PEFT's default."""


@dataclass(frozen=True)
class AdaLoRA:
    """AdaLoRA adapters on a model, ΔW = B diag(e) A with masked e, made by `inject_adalora`.

    Attributes
    ----------
    wrapped : peft.PeftModel
    parameters : list of torch.nn.Parameter
        What is trained.
    """

    wrapped: Any
    parameters: list[nn.Parameter]

    def penalty(self) -> Tensor:
        """What is added to the loss: half the mean over all factors of ‖A Aᵀ − I‖_F or ‖Bᵀ B − I‖_F.

        PEFT adds it itself only where a model's output holds its loss.
        """
        terms = []
        for name, factor in self.wrapped.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor
                terms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return ORTHOGONAL * torch.stack(terms).mean()

    def allocate(self, step: int) -> None:
        """Share out the ranks after a step, counted from 1, while the gradients are still there."""
        self.wrapped.base_model.update_and_allocate(step)

    def num_kept(self) -> int:
        """How many numbers are not masked in the end: two vectors and a value for every rank that is left."""
        return sum(
            int(layer.lora_E["default"].count_nonzero()) * (layer.in_features + layer.out_features + 1)
            for layer in self.wrapped.modules()
            if hasattr(layer, "lora_E")
        )

    def merge(self) -> None:
        """Add every change to its weight and take the adapters off the model, in place."""
        self.wrapped.merge_and_unload()


def inject_adalora(model: nn.Module, layers: Sequence[str], *, rank: int, num_steps: int) -> AdaLoRA:
    """Freeze a model and put AdaLoRA adapters on some linear layers, by the names that they have.

    Parameters
    ----------
    rank : int
        Mean over the layers at the end.
    num_steps : int
        All steps of the training.

    Raises
    ------
    ModelError
        If PEFT is not installed.
    """
    package, first = peft(), round(START * rank)
    last = max(1, int(LAST * num_steps))
    config = package.AdaLoraConfig(
        init_r=first,
        target_r=rank,
        lora_alpha=first,  # a factor of 1, as that of LoRA here
        tinit=min(int(WARM_UP * num_steps), num_steps - last - 1),
        tfinal=last,
        deltaT=1,
        total_step=num_steps,
        orth_reg_weight=ORTHOGONAL,
        target_modules=list(layers),
    )
    wrapped = package.get_peft_model(model, config)
    return AdaLoRA(wrapped, [parameter for parameter in model.parameters() if parameter.requires_grad])
