"""The layers: each module imports only from those to its left."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"errors", "machine", "hashing"},
    {"safe_files", "checks", "unknown_options", "user_code"},
    {"transport"},
    {"statistics"},
    {"inference"},
    {"explanation"},
    {"functional", "losses"},
    {"features", "images"},
    {"summaries"},
    {"scoring", "metrics"},
    {"integrations"},
    {"pages"},
    {"reference_models"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MATHS = {"transport", "statistics", "inference", "explanation", "functional", "losses"}
ALSO_NOT = {"features": MATHS, "images": MATHS}
ONLY_IN = {
    "torchmetrics": {"metrics"},
    "click": {"cli"},
    "matplotlib": {"reference_models"},
    "PIL": {"images"},
    "ray": {"integrations"},
}
FILES = [
    path
    for folder in ("otmetrics", "cli", "reference_models")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def parts(path: Path) -> list[str]:
    """Module path below the package: otmetrics/transport/costs.py gives transport, costs."""
    names = list(path.relative_to(ROOT).with_suffix("").parts)
    return names[1:] if names[0] == "otmetrics" else names


def imported(path: Path) -> set[str]:
    """Absolute names of all that a module imports, also inside functions."""
    package = ["otmetrics", *parts(path)][:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(parts(path)))
def test_module(path: Path) -> None:
    own, names = parts(path)[0], imported(path)
    for package, allowed in ONLY_IN.items():
        if own not in allowed:
            assert not [name for name in names if name.split(".")[0] == package]
    if own != "cli":
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, "a second concept?"
    if own == "__init__":
        return  # the public names, from everywhere
    assert own in RANK, f"give `{own}` its layer"
    for name in names:
        other = name.split(".")[1] if name.startswith("otmetrics.") else own
        if other in RANK and other != own:
            assert RANK[other] < RANK[own], f"`{own}` imports {name}"
            assert other not in ALSO_NOT.get(own, set()), f"`{own}` imports {name}"


def test_the_rules_meet_files() -> None:
    """A renamed folder must not turn every rule into a rule about nothing."""
    there = {parts(path)[0] for path in FILES}
    named = set(RANK).union(*ALSO_NOT.values(), *ONLY_IN.values())
    assert named <= there
    assert "otmetrics.transport.costs.centre_clouds" in imported(
        ROOT / "otmetrics" / "transport" / "sliced" / "mind.py"
    )


def test_no_circles() -> None:
    """Within a room, too, imports run one way, also those inside of functions."""
    uses = {".".join(parts(path)): imported(path) for path in FILES}
    arrows = {
        name: {
            other
            for other in uses
            if other != name
            and not other.endswith("__init__")
            and any(used.startswith(f"otmetrics.{other}.") for used in names)
        }
        for name, names in uses.items()
        if not name.endswith("__init__")  # faces gather names
    }
    while ground := {name for name, used in arrows.items() if not used}:
        arrows = {name: used - ground for name, used in arrows.items() if name not in ground}
    assert not arrows
