"""The command line, imported as `otmetrics.cli`: arguments in, one library call, rendering out."""
