"""Every example in a docstring runs and says what it says."""

import doctest
import importlib

import pytest
import torch
from test_architecture import FILES, parts

MODULES = sorted(
    ".".join(["otmetrics", *(name for name in parts(path) if name != "__init__")])
    for path in FILES
    if parts(path)[-1] != "__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)
    outcome = doctest.testmod(module, extraglobs={"torch": torch})
    assert outcome.failed == 0


def test_the_maths_has_examples() -> None:
    """One for each public function that returns a number; an empty run would pass the rest."""
    names = [name for name in MODULES if name.startswith("otmetrics.functional.")]
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in names for test in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 10
