import json
import sys

import pytest
import torch

from otmetrics.errors import DataError
from otmetrics.features import load_extractor

CODE = """
from torch import nn
import torch

class Mean(nn.Module):
    def forward(self, images):
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3))

class Parts:
    instance = Mean()

class NeedsWidth(Mean):
    def __init__(self, width):
        super().__init__()

def build():
    return Mean()

class Maps(nn.Module):
    def forward(self, images):
        return images.float()

instance = Mean()
number = 3
lazy = int
"""
IMAGES = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """A user's project in the working directory."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "__init__.py").write_text("")
    (tmp_path / "mynets" / "means.py").write_text(CODE)
    (tmp_path / "mynets" / "broken.py").write_text("import a_package_that_nobody_has")
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mynets"]:
        del sys.modules[name]


@pytest.mark.parametrize("attribute", ["Mean", "build", "instance", "Parts.instance"])
def test_instances_classes_and_functions_work(attribute):
    path = list(sys.path)
    extractor = load_extractor(f"module:mynets.means:{attribute}")
    assert torch.equal(extractor(IMAGES), IMAGES.float().mean((2, 3)))
    assert sys.path == path
    assert extractor.protocol["extractor"] == f"module:mynets.means:{attribute}"
    assert extractor.protocol["resize"]["size"] is None
    json.dumps(extractor.protocol)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere:net",
            r"`module:nowhere:net` has no module .*; check the name, or run where it can",
        ),
        ("mynets.nowhere:net", "`module:mynets.nowhere:net` has no module that can be imported"),
        ("mynets.means:Means", "`module:mynets.means:Means` has no 'Means'; choose from Mean"),
        ("mynets.means:Parts.other", "has no 'other'; choose from instance"),
        ("mynets.means:number", "`module:mynets.means:number` must be a torch.nn.Module, got int"),
        ("mynets.means:lazy", "must be a torch.nn.Module, got int"),
        ("mynets.means:NeedsWidth", "must take no arguments .*'width'"),
        ("mynets.means", "`module:mynets.means` must have the form module:package.name:attr"),
        ("mynets.means:", "must have the form module:package.name:attr"),
        (".means:Mean", "must have the form module:package.name:attr"),
    ],
)
def test_wrong_names_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        load_extractor(f"module:{name}")


def test_errors_inside_the_users_code_keep_their_traceback():
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        load_extractor("module:mynets.broken:net")


def test_outputs_that_are_no_features_are_refused():
    with pytest.raises(DataError, match=r"`module:mynets\.means:Maps` must return one tensor"):
        load_extractor("module:mynets.means:Maps")(IMAGES)
