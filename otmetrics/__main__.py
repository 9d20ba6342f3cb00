"""`python -m otmetrics` is the command line."""

from otmetrics.cli.main import main

main()
