"""What the experiment with adapters on a vision transformer is told, and the numbers that its source prints."""

from dataclasses import dataclass

from neurocollapse.support.choices import check_choice

FULL, PROBE, LORA, ADALORA, DEEP, COMPRESSED = "full", "probe", "LoRA", "AdaLoRA", "Deep LoRA", "compressed Deep LoRA"
METHODS = (FULL, PROBE, LORA, ADALORA, DEEP, COMPRESSED)
ADAPTERS = (LORA, ADALORA, DEEP, COMPRESSED)
SLIDES = "Qu, slides of 7 September 2023"
PRINTED = {
    "cifar10": {FULL: 0.9907, LORA: 0.9897, ADALORA: 0.9887},
    "cifar100": {FULL: 0.9327, LORA: 0.9285, ADALORA: 0.9293},
}
"""Accuracies of a ViT-B by data and method."""
PRINTED_PARAMETERS = {FULL: 86.7e6, LORA: 0.33e6, ADALORA: 0.33e6}
"""Numbers that are trained of it."""


@dataclass(frozen=True)
class AdaptersVision:
    """Setting of the experiment: networks, data and training are our choice.

    Attributes
    ----------
    data : str
        A data spec of images with a test split; half of its classes are the source's.
    model : str or None
        A pretrained model, as `neurocollapse.models.open` takes it, for example "timm:vit_base_patch16_224"; its
        outputs are class scores. None is a small vision transformer that is pretrained on the source first.
    checkpoint : str or None
        The weights of `model`, a local file.
    image_size : int or None
        Height and width to which images are fitted; None leaves them.
    head : str
        Name of the model's last layer, which is replaced, and trained by every method.
    layers : tuple of str
        Names and globs of the adapted layers.
    methods : tuple of str
        Some of "full", "probe" (the head alone), "LoRA", "AdaLoRA" (with PEFT), "Deep LoRA", "compressed Deep LoRA".
    rank : int
        Rank of the adapters; even.
    samples_per_class : int or None
        Samples of each new class, drawn for every repeat; None takes all there are.
    num_repeats : int
        Sources, each with its own head, adapters and samples; one source only where a model is named.
    patch_size, width, depth, num_heads, hidden_width : int
        Sizes of the small vision transformer.
    pretraining_epochs : int
    epochs : int
        Epochs on the new classes.
    batch_size : int
    pretraining_rate, learning_rate, adapter_rate : float
        Rates of Adam in pretraining, in full training, and for adapters and heads, falling along a cosine. Deep LoRA,
        whose three factors grow from 1e-3, has the same rate as LoRA.
    outer : float
        γ: the outer factors of a compressed adapter train at γ times the rate.
    seed : int
        Seed of the first repeat.
    """

    data: str = "digits"
    model: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    head: str = "head"
    layers: tuple[str, ...] = ("blocks.**",)
    methods: tuple[str, ...] = METHODS
    rank: int = 4
    samples_per_class: int | None = None
    num_repeats: int = 3
    patch_size: int = 2
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    hidden_width: int = 128
    pretraining_epochs: int = 8
    epochs: int = 12
    batch_size: int = 32
    pretraining_rate: float = 2e-3
    learning_rate: float = 3e-3
    adapter_rate: float = 2e-2
    outer: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for method in self.methods:
            check_choice("methods", method, METHODS)
        if self.rank % 2:
            raise ValueError(f"`rank` must be even, as a compressed adapter needs it, got {self.rank}")
        if self.checkpoint is not None and self.model is None:
            raise ValueError("`checkpoint` needs a `model` to load it into; set model as well")
