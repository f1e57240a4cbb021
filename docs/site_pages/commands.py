"""The page of the command line, from the program itself."""

import inspect
import re
from typing import Any

import typer

from neurocollapse.cli.program import app

_PAGE = """\
# Command line

{help}

```sh
neurocollapse COMMAND [OPTIONS]    # or: python -m neurocollapse …
torchrun --nproc-per-node 4 -m neurocollapse analyze [OPTIONS]
```

A mistake is one line on standard error and exit code 2; with `NEUROCOLLAPSE_TRACEBACK=1` an unexpected error shows
where it happened. Ctrl-C leaves with exit code 130; what `--resume` has kept is safe.

{sections}
"""


def pages() -> dict[str, str]:
    """Name → content of the one page."""
    program: Any = typer.main.get_command(app)
    sections = [section(name, command) for name, command in program.commands.items()]
    return {"command_line.md": _PAGE.format(help=markdown(program.help), sections="\n".join(sections))}


def section(name: str, command: Any) -> str:
    """A command: its help, then its arguments and options as a list of definitions."""
    context = command.make_context(f"neurocollapse {name}", [], resilient_parsing=True)
    usage = " ".join([context.info_name, *command.collect_usage_pieces(context)])
    records = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    entries = "\n".join(f"`{shown}`\n: {markdown(text) or 'See above.'}\n" for shown, text in records)
    return f"## {name}\n\n{markdown(command.help)}\n\n```sh\n{usage}\n```\n\n{entries}"


def markdown(text: str | None) -> str:
    """Help as Markdown: paragraphs kept, options as code, marks that Markdown would take for its own escaped."""
    parts = _OPTION.split(inspect.cleandoc(text or "").replace("\b\n", ""))
    parts[::2] = [re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{option}`" for option in parts[1::2]]
    return "".join(parts)


_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*(?:=[^\s,.]+)?)")
"""Two hyphens that would become a dash."""
