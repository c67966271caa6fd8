"""`python -m cli` is `recgpt`."""

from cli.main import main

main()
