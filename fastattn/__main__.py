"""``python -m fastattn``: the command line."""

from fastattn.cli.app import app

app()
