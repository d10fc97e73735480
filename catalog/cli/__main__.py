"""`python -m catalog.cli`."""

from catalog.cli import app

app()
