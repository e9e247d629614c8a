"""The command line: parses, calls one function a command, prints, and says a user's mistake in one line.

A file is a group of commands; `group` has what they share. Nothing heavy is imported before a command runs.
"""

from dacapo.cli import runs, volumes, blocks, tables, settings  # isort: skip  (the order of `dacapo --help`)
from dacapo.cli.group import Ticker, cli, main

__all__ = ["Ticker", "blocks", "cli", "main", "runs", "settings", "tables", "volumes"]
