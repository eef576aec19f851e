"""`python -m graphprune` is the command `graphprune`."""

from .cli import main

main()
