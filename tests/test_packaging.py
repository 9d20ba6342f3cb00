"""The package as users get it: its list of packages, its imports, its wheel."""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import fields
from pathlib import Path

import pytest
from command import write_images

import otmetrics
from otmetrics import Exact, Sinkhorn, Sliced, functional
from otmetrics.transport.sliced.max_sliced import MaxSliced

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).parents[1]
SOLVERS = {
    "entropic_cost": Sinkhorn,
    "exact_wasserstein": Exact,
    "max_sliced_wasserstein": MaxSliced,
    "sinkhorn_divergence": Sinkhorn,
    "sliced_wasserstein": Sliced,
}
HEAVY = {"torchmetrics", "timm", "PIL", "matplotlib", "otmetrics.reference_models"}


def test_every_package_is_listed():
    # setuptools builds without a forgotten subpackage, and an editable install hides the loss.
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    found = {
        ".".join(init.parent.relative_to(ROOT).parts): None
        for top in ("otmetrics", "cli", "reference_models")
        for init in (ROOT / top).rglob("__init__.py")
    }
    mapped = {folder: name for name, folder in setuptools["package-dir"].items()}
    tops = {name.split(".")[0] for name in found}
    homes = {top: mapped.get(top, top) for top in tops}
    expected = {homes[name.split(".")[0]] + name.removeprefix(name.split(".")[0]) for name in found}
    assert set(setuptools["packages"]) == expected


def test_every_dependency_is_imported_somewhere():
    """What only tests and benchmarks need is no burden of those who install the package."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0] for line in needed}
    modules = {"POT": "ot", "pillow": "PIL"}
    imported = set()
    for top in ("otmetrics", "cli", "reference_models"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    imported.add(node.value)  # a package of weights, found without importing it
    assert {modules.get(name, name.replace("-", "_")) for name in names} <= imported


def test_import_is_light():
    code = (
        "import sys, torch; before = set(sys.modules); import otmetrics\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(finished.stdout.split())
    assert "otmetrics" in loaded
    assert not loaded & HEAVY
    # The only modules of our own are the package itself: public names load on first use.
    assert {name for name in loaded if name.startswith("otmetrics")} == {"otmetrics"}


def test_functions_need_no_heavy_library():
    code = (
        "import sys, torch, otmetrics\n"
        "x = torch.randn(20, 3)\n"
        "otmetrics.sliced_wasserstein(x, x), otmetrics.sinkhorn_divergence(x, x)\n"
        f"assert not {HEAVY!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_load():
    assert len(otmetrics.__all__) > 40
    for name in [*otmetrics.__all__, "__version__"]:
        assert getattr(otmetrics, name) is not None
    assert set(otmetrics.__all__) <= set(dir(otmetrics))
    with pytest.raises(AttributeError, match="attribute fid"):
        otmetrics.fid  # noqa: B018


def test_the_stub_lists_the_options_of_the_solvers():
    stub = {}
    exec(Path(functional.__file__).with_suffix(".pyi").read_text(), stub)
    names = {name for name in stub if not name.startswith("__")} - {"torch", "Tensor"}
    assert names == set(functional.__all__)
    for name in names:
        function = getattr(functional, name)
        passes_on = not isinstance(function, type) and "options" in (
            inspect.signature(function, follow_wrapped=False).parameters
            | inspect.signature(inspect.unwrap(function)).parameters
        )
        assert (stub[name] is not function) == passes_on, name
        assert inspect.signature(stub[name]) == inspect.signature(function)
    for name, solver in SOLVERS.items():
        told = {one.name: one.default for one in inspect.signature(stub[name]).parameters.values()}
        options = {field.name: field.default for field in fields(solver)}
        if name == "entropic_cost":
            assert options.pop("richardson") is False  # which is for the divergence
            assert "richardson" not in told
        assert options.items() <= told.items()
        kinds = {one.name: one.kind for one in inspect.signature(stub[name]).parameters.values()}
        assert {kinds[option] for option in options} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel, which sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("otmetrics", "cli", "reference_models"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", source, "--no-build-isolation", "--no-deps", "-w", folder]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("otmetrics-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--no-index", "--no-deps", wheel]
    subprocess.run([*pip, "--python", python, *install], check=True, capture_output=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    finished = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    # Only this folder's files, not its .pth files: an editable otmetrics stays out of sight.
    Path(finished.stdout.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin", wheel


def test_wheel_holds_one_top_level_name(installed):
    import zipfile

    names = zipfile.ZipFile(installed[1]).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"otmetrics"}
    for name in (
        "py.typed",
        "__init__.pyi",
        "functional.pyi",
        "images/demo.jpg",
        "pages/style.css",
        "cli/main.py",
        "reference_models/__init__.py",
    ):
        assert f"otmetrics/{name}" in names


def test_wheel_scores_a_folder(installed, tmp_path):
    programs, _ = installed
    real, fake = (write_images(tmp_path / name, 14, seed=i) for i, name in enumerate("ab"))
    where = "import otmetrics, otmetrics.cli; print(otmetrics.__file__, otmetrics.cli.__file__)"
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": True}
    origin = subprocess.run([programs / "python", "-c", where], **run).stdout.split()
    assert all(str(programs.parent) in file for file in origin)
    command = ["score", real, fake, "--json", "--metrics", "wasserstein"]
    finished = subprocess.run([programs / "otmetrics", *command], **run)
    assert json.loads(finished.stdout)["scores"]["wasserstein"]["value"] > 0
    module = subprocess.run([programs / "python", "-m", "otmetrics", *command], **run)
    assert module.stdout == finished.stdout
