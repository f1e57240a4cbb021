"""The program: its commands, and how mistakes, warnings and interruptions end."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TextIO

import typer

import neurocollapse as nc
from neurocollapse.cli.analyze import analyze, list_layers
from neurocollapse.cli.check import check
from neurocollapse.cli.experiment import experiment
from neurocollapse.cli.options import Command
from neurocollapse.cli.report import report
from neurocollapse.cli.track import track
from neurocollapse.cli.verify import verify
from neurocollapse.support.checks import shown
from neurocollapse.support.progress import progress_in_lines
from neurocollapse.support.text import first_line, visible

MOST = 275
"""Characters of a message; with the words around it a line has at most 300."""
EXIT_DONE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 2, 130
_SAVED = "what has a file of its own is saved"

_UsageError: Any = typer.BadParameter.__mro__[1]  # typer does not export its own base classes
_CommandError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Hook any PyTorch model and measure how its layers compress and separate classes.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(f"neurocollapse {nc.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


_COMMANDS: dict[str, Callable[..., None]] = {
    "analyze": analyze,
    "layers": list_layers,
    "verify": verify,
    "experiment": experiment,
    "report": report,
    "track": track,
    "check": check,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=Command)(_command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; a mistake of the user's becomes one line on standard error and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console that has no Σ shows \u03a3, as it does in warnings
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings(), progress_in_lines():
            warnings.showwarning = _show_warning
            code = app(args=arguments, prog_name="neurocollapse", standalone_mode=False)
            _flush()
    except _UsageError as error:
        code = _fail(f"{error.format_message()} (see neurocollapse --help)")
    except _CommandError as error:
        code = _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except SystemExit as end:
        cause = end.__context__
        if isinstance(cause, OSError) and cause.errno == errno.EPIPE:  # so typer ends when its reader has gone
            code = _fail(f"cannot print: {cause.strerror}; {_SAVED}")
        else:
            code = _fail(f"the model or the data ended the program: sys.exit({shown(end.code)}); remove that call")
    except Exception as error:
        if os.environ.get("NEUROCOLLAPSE_TRACEBACK"):
            raise
        code = _fail(_one_line(error))
    if code == EXIT_INTERRUPTED:  # typer itself turns Ctrl-C in a command into this code
        print("neurocollapse: interrupted; what --resume FILE has kept is safe", file=sys.stderr)
    sys.exit(code or EXIT_DONE)


def _flush() -> None:
    """Print what waits; what cannot be printed is forgotten, or it would fail again when the process ends."""
    try:
        if sys.stdout is not None:  # None in a process that was started without one
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"cannot print: {error.strerror}; {_SAVED}") from error


def _fail(message: str) -> int:
    """Say what is wrong in one line."""
    words = visible(message.replace("Value error, ", ""), most=MOST)  # typer's mark in front of its own words
    print(f"neurocollapse: {words}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _one_line(error: Exception) -> str:
    """An error as one line; those that are not ours carry their type and how to see more."""
    if isinstance(error, OSError) and error.strerror:
        return f"{visible(error.filename or 'a file')} cannot be used: {error.strerror}; check the path"
    ours = isinstance(error, ValueError | TypeError | OSError | MemoryError)
    text = first_line(error, most=MOST)
    return text if ours else f"{type(error).__name__}: {text} (NEUROCOLLAPSE_TRACEBACK=1 shows where)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line on standard error."""
    print(f"neurocollapse: warning: {visible(message, most=MOST)}", file=file or sys.stderr)
