"""What the command line's options are called, may be, and say in the help."""

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

import neurocollapse as nc
from neurocollapse.cli.wording import options_of, spoken
from neurocollapse.support.checks import MAX_CLASSES

ModelOption = Annotated[
    str, typer.Option("--model", help="package.module:factory, torchvision:NAME, timm:NAME or hf:FOLDER.")
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, its .index.json, or a torch file, read with weights_only=True."),
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, mnist:ROOT, fashion-mnist:ROOT, cifar10:ROOT, folder:ROOT, npz:FILE, text:FILE (with --model "
        "hf:FOLDER, whose tokenizer is taken) or package.module:factory.",
    ),
]
ModelClasses = Annotated[
    int | None, typer.Option(min=1, max=MAX_CLASSES, help="Number of outputs to build the model with.")
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Side to which the images of a folder are scaled and cropped.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of random weights.")]
HaltOption = Annotated[bool, typer.Option("--halt", help="End the forward pass behind the last of the layers.")]
SplitOption = Annotated[Literal["train", "test"], typer.Option(help="Which part of the data.")]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        help="Labels of token sequences: next-token, or the npz array with labels of sequences or positions. "
        "Default: labels."
    ),
]
IgnoreIndex = Annotated[int | None, typer.Option(help="Label of positions that do not count. Default: -100.")]
ClassesOption = Annotated[
    str | None,
    typer.Option(help="Measure this many of the most frequent classes only, or these labels, separated by commas."),
]
LengthOption = Annotated[
    int | None, typer.Option(min=2, help="Tokens of a sequence of text at most. Default: 256, or what the model takes.")
]
LinesOption = Annotated[
    bool, typer.Option("--lines", help="A sequence for every line of a text. Default: the whole text in equal pieces.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Use at most this many samples: the same share of each class, or a text's first sequences."
    ),
]


class Command(typer.core.TyperCommand):
    """A command that speaks of its options, also where the library speaks of its arguments.

    It refuses an option given twice, of which the last one would win without a word.
    """

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        *_, given = self.make_parser(context).parse_args(args=list(arguments))
        for parameter in given:
            if given.count(parameter) > 1 and not (parameter.multiple or parameter.param_type_name == "argument"):
                context.fail(f"{parameter.opts[0]} is given {given.count(parameter)} times; give it once")
        return super().parse_args(context, arguments)

    def invoke(self, context: Any) -> Any:
        options, show = options_of(self.params), warnings.showwarning

        def show_spoken(message: Warning | str, *others: Any) -> None:
            show(spoken(str(message), options), *others)

        with warnings.catch_warnings():
            warnings.showwarning = cast(Any, show_spoken)
            try:
                return super().invoke(context)
            except (ValueError, TypeError, MemoryError) as error:
                if len(error.args) == 1 and isinstance(error.args[0], str):
                    if isinstance(error, nc.models.ModelError) and "model_classes" in options:
                        options["num_classes"] = options["model_classes"]
                    error.args = (spoken(error.args[0], options),)
                raise
