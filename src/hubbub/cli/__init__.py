"""The command line: `hubbub COMMAND`, one module a command."""

from hubbub.cli.program import main

__all__ = ["main"]
