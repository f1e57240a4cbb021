"""The command line: arguments in, library calls, exit codes out; one file per command."""

from neurocollapse.cli.program import app, main

__all__ = ["app", "main"]
