"""Every example in a docstring and in the README runs and says what it says."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_architecture import FILES, parts

import otmetrics
from otmetrics import features, functional, images, metrics, transport

ROOT = Path(__file__).parents[1]

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


FACES = [otmetrics, features, functional, images, metrics, transport]
EXPORTED = {
    f"{face.__name__}.{name}": value
    for face in FACES
    for name in face.__all__
    if inspect.isclass(value := getattr(face, name)) or inspect.isfunction(value)
}


@pytest.mark.parametrize("exported", EXPORTED)
def test_exported_names_are_documented_in_full(exported: str) -> None:
    value = EXPORTED[exported]
    if not inspect.isclass(value):
        assert_documented(value)
        return
    assert value.__doc__
    named, own = sections(value), inspect.get_annotations(value)
    if hasattr(value, "_fields"):
        assert set(value._fields) == named.get("Attributes", set()), "Attributes"
    elif dataclasses.is_dataclass(value):
        assert set(own) == named.get("Attributes", set()), "Attributes"
    elif "__init__" in vars(value) and not getattr(value, "_is_protocol", False):
        assert parameters(value.__init__) == named.get("Args", set()), "Args"
    for name, method in vars(value).items():
        known = name.startswith("_") or name in own or hasattr(torch.nn.Module, name)
        if inspect.isfunction(method) and not known:
            assert_documented(method)


def assert_documented(function: Callable) -> None:
    """Args for each parameter, Returns or Yields, and Raises where the function itself raises."""
    function = inspect.unwrap(function)
    named, label = sections(function), function.__qualname__
    assert named.get("Args", set()) == parameters(function), label
    if inspect.signature(function).return_annotation not in (None, inspect.Signature.empty):
        assert {"Returns", "Yields"} & named.keys(), label
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(tree)):
        assert named.get("Raises"), label


def parameters(function: Callable) -> set[str]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    own = inspect.signature(function, follow_wrapped=False).parameters.values()
    return {stars.get(one.kind, "") + one.name for one in own} - {"self", "cls"}


def sections(value: object) -> dict[str, set[str]]:
    """The sections of a docstring, and the names that each one explains."""
    found: dict[str, set[str]] = {}
    for section, text in re.findall(
        r"^(Args|Attributes|Returns|Yields|Raises):\n((?:    .*\n?|\n)+)",
        inspect.getdoc(value) or "",
        re.MULTILINE,
    ):
        found[section] = set(re.findall(r"^    (\*{0,2}\w+):", text, re.MULTILINE))
    return found


def test_the_maths_has_examples() -> None:
    """One for each public function that returns a number; an empty run would pass the rest."""
    names = [name for name in MODULES if name.split(".")[1:2] in (["transport"], ["statistics"])]
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in names for test in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 10


def test_python_of_the_readme_runs(capsys: pytest.CaptureFixture) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    torch.manual_seed(0)
    names: dict[str, object] = {}  # a later block goes on from an earlier one
    for block in blocks:
        exec(block, names)
    assert len(capsys.readouterr().out.split()) == 2


@pytest.mark.parametrize(("page", "test"), [("README.md", 39), ("docs/first-scores.md", 0)])
def test_tables_have_the_shape_that_is_printed(
    page: str, test: int, capsys: pytest.CaptureFixture
) -> None:
    # Numbers differ between machines; names, columns and legend do not.
    from otmetrics.cli.render import print_report

    from otmetrics import Scoring, score_features

    real = torch.randn(20, 2, dtype=torch.float64)
    print_report(score_features(real, real + 1, scoring=Scoring(test=test)))
    header, *rows = capsys.readouterr().out.splitlines()
    shown = [" ".join(line.split()) for line in (ROOT / page).read_text().splitlines()]
    assert " ".join(header.split()) in shown
    for row in rows[:9]:
        label = row[: row.index("  ")]
        assert any(line.startswith(label) for line in shown), label
    # After what the scores say; how many samples stand behind the floor is another number there.
    legend = [re.sub(r"\d+", "#", line) for line in rows if line[:6] in ("interv", "floor:")]
    assert len(legend) == 2
    for line in legend:
        assert line in [re.sub(r"\d+", "#", one) for one in shown]


@pytest.mark.parametrize("page", ["README.md", *Path(__file__).parents[1].glob("docs/*.md")])
def test_links_lead_somewhere(page: Path | str) -> None:
    page = ROOT / page
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
