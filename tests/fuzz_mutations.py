"""Ways to damage a file: its bytes, what it says of itself, its name, its kind."""

import io
import json
import os
import pickletools
import random
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
NUMBERS = ("0", "-1", "1", "65536", "99999999", "2147483648", "18446744073709551616", "1e9", "")
FORGED = "a\nerror: forged \x1b[31m‮.png"
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**70, 0.5, 1e308, -1e308, float("nan"), float("inf")),
    *("", "0", "x", FORGED, "../../victim.png", "/dev/zero", "in", "x" * 5000),
    *("module:fuzz_canary:net", "python:fuzz_canary:net", "fuzz_canary:net", "timm:test_vit"),
    *([], [[]], [1, 2, 3], ["a"], [0] * 5000, {}, {"a": 1}, {"extractor": "none"}),
)
NAMES = (
    FORGED,
    "../victim.png",
    "../../escaped.png",
    "/tmp/fuzz_escaped.png",
    "\x1b]0;title\x07.png",
    "[/red]cut[bold].png",
    "x" * 240 + ".png",
    ".hidden.png",
    "con:evil.png",
    "-rf.png",
    "a b\t.png",
    "no suffix",
    "\udcff.png",
    "folder/",
)


class Damage(NamedTuple):
    """What was done to an input.

    Attributes:
        text: In words.
        is_sound: Whether the result may be a sound input of other content.
    """

    text: str
    is_sound: bool


def damage_bytes(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Change the bytes of one file."""
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(rng.randbytes(64))
        return "filled an empty file"
    size = len(content)

    def place(span: int = 1) -> int:
        """Headers and trailers matter most."""
        last = max(0, size - span)
        where = rng.random()
        if where < 0.35:
            return rng.randint(0, min(last, 160))
        return rng.randint(max(0, last - 160), last) if where < 0.55 else rng.randint(0, last)

    def block() -> tuple[int, int]:
        """A part of the file."""
        start = place()
        return start, min(size, start + rng.choice([1, 4, 16, 64, 512, 4096]))

    often = ["flip"] * 4 + ["length"] * 3 + ["cut"] * 2 + ["sparse"] * (rng.random() < 0.3)
    seldom = ["bytes", "grow", "swap", "zero", "digits", "splice", "repeat", "drop"]
    kind = rng.choice([*often, *seldom])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 1, 2, 8, 40])):
            content[place()] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        for _ in range(rng.choice([1, 4, 16])):
            content[place()] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    elif kind == "length":
        width = rng.choice("HIQ")
        field = struct.pack(
            rng.choice("<>") + width, rng.choice(EXTREMES) % 256 ** struct.calcsize(width)
        )
        start = place(len(field))
        content[start : start + len(field)] = field
    elif kind == "cut":
        del content[rng.choice([0, place(), rng.randrange(size), size - 1]) :]
    elif kind == "grow":
        tail = rng.choice([rng.randbytes(50), bytes(2000), bytes(content), b"\n", b"PK\x05\x06"])
        content += tail
    elif kind == "swap":
        (a, b), (c, d) = sorted([block(), block()])
        if b <= c:
            content = content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    elif kind == "zero":
        start, stop = block()
        content[start:stop] = bytes(stop - start)
    elif kind == "digits":
        found = list(re.finditer(rb"\d+", bytes(content)))
        if found:
            at = rng.choice(found)
            content[at.start() : at.end()] = rng.choice(NUMBERS).encode()
    elif kind == "splice":
        other = rng.choice(others).read_bytes() or b"x"
        content = content[: place()] + other[rng.randrange(len(other)) :]
    elif kind == "repeat":
        start, stop = block()
        content[stop:stop] = content[start:stop] * rng.choice([1, 2, 100])
    elif kind == "drop":
        start, stop = block()
        del content[start:stop]
    path.unlink()
    path.write_bytes(bytes(content))
    if kind == "sparse":
        os.truncate(path, rng.choice([2**20, 3 * 2**30, 5 * 2**30]))
    return kind


def damage_place(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Put something else where a file was, or give it another name."""
    kind = rng.choice(["fifo", "link", "folder", "name", "name", "empty", "copy", "other"])
    if kind == "name" or kind == "copy":
        name = rng.choice(NAMES).replace("/", "_").replace("_folder", "")
        if rng.random() < 0.5 and path.suffix:
            name = name.removesuffix(".png") + path.suffix
        with suppress(OSError, ValueError):
            target = path.with_name(name)
            if kind == "name":
                path.rename(target)
            else:
                target.write_bytes(path.read_bytes())
        return f"{kind} {name!r}"[:60]
    content = path.read_bytes()
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        to = rng.choice(["/dev/zero", "/dev/stdin", path.name, "missing", "..", "../victim.png"])
        path.symlink_to(to)
        return f"link to {to}"
    elif kind == "folder":
        path.mkdir()
        (path / path.name).write_bytes(content)
    elif kind == "empty":
        path.touch()
    else:
        path.write_bytes(rng.choice(others).read_bytes())
    return kind


def damaged_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with another one somewhere in it."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(items):
            places.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    if isinstance(value, dict | list):
        walk(value)
    if not places or rng.random() < 0.05:
        return rng.choice(VALUES)
    node, key = rng.choice(places)
    child = node[key]
    if isinstance(child, str) and child.startswith("{") and rng.random() < 0.9:
        with suppress(ValueError):
            node[key] = json.dumps(damaged_json(json.loads(child), rng))
            return value
    way = rng.random()
    if way < 0.12:
        del node[key]
    elif way < 0.2 and isinstance(node, dict):
        node[str(rng.choice(VALUES))[:300]] = node.pop(key)
    elif way < 0.3 and isinstance(child, int | float) and not isinstance(child, bool):
        node[key] = child * rng.choice([-1, 2, 1000, 10**9, 0.5]) + rng.choice([0, 1, -1])
    else:
        node[key] = rng.choice(VALUES)
    return value


def _json_text(text: str, rng: random.Random) -> str:
    """JSON, or lines of it, damaged."""
    lines = text.splitlines() if text.count("\n") > 1 and text.startswith("{") else [text]
    try:
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(damaged_json(json.loads(lines[index]), rng))
    except ValueError:
        return json.dumps(damaged_json(json.loads(text), rng))
    way = rng.random()
    if way < 0.03:
        return "[" * 100_000
    return "\n".join(lines)


def damage_json(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Another value in a JSON file."""
    path.write_text(_json_text(path.read_text(encoding="utf-8"), rng), encoding="utf-8")
    return "json"


def damage_safetensors(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Another value in the header of a safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.dumps(damaged_json(json.loads(content[8 : 8 + size]), rng)).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    return "header"


def damage_zip(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Other names, doubles, members of other kinds, a record of another type."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        packed = archive.infolist()[0].compress_type
    kind = rng.choice(["name", "double", "drop", "add", "bomb", "array"])
    index = rng.randrange(len(members))
    name, content = members[index]
    if kind == "name":
        members[index] = rng.choice(NAMES), content
    elif kind == "double":
        members.append((name, rng.choice(members)[1]))
    elif kind == "drop":
        del members[index]
    elif kind == "add":
        members.insert(index, (rng.choice(NAMES), rng.choice(others).read_bytes()))
    elif kind == "bomb":
        members[index] = name, bytes(2**20 * rng.choice([1, 64]))
        packed = zipfile.ZIP_DEFLATED
    else:
        members[index] = name, damaged_array(content, rng)
    date = (1980, 1, 1, 0, 0, 0)
    warnings.filterwarnings("ignore", "Duplicate name")
    with zipfile.ZipFile(path, "w", packed) as archive, suppress(UnicodeError):
        for member, bytes_ in members:
            info = zipfile.ZipInfo(member.replace("\0", ""), date)
            info.compress_type = packed
            archive.writestr(info, bytes_)
    return f"zip {kind}"


def damaged_array(content: bytes, rng: random.Random) -> bytes:
    """An array of another dtype, shape or text; bytes of what is none."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):
        return rng.randbytes(len(content) // 2)
    if array.dtype.kind == "U" and not array.ndim and str(array).startswith("{"):
        array = np.array(_json_text(str(array), rng))
    else:
        ways: tuple[Callable[[], Any], ...] = (
            lambda: array[:-1] if array.ndim else array[None],
            lambda: array[None],
            lambda: np.array([], array.dtype),
            lambda: np.array("x"),
            lambda: np.array(FORGED),
            lambda: np.array([FORGED] * max(1, array.size))[: len(array) if array.ndim else 1],
            lambda: np.full(array.shape, np.nan),
            lambda: np.full(array.shape, 1e300),
            lambda: np.zeros(
                array.shape, rng.choice(["c16", "f2", ">f8", "?", "M8[s]", "V3", "u8"])
            ),
            lambda: np.zeros((*array.shape, 0)),
        )
        array = rng.choice(ways)()
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def damage_tar(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Members of other names and kinds."""
    mode = "gz" if path.suffix == ".gz" else ""
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive.getmembers()]
    index = rng.randrange(len(members))
    kind = rng.choice(["name", "double", "drop", "link", "hard link", "fifo", "folder", "device"])
    types = {"link": b"2", "hard link": b"1", "fifo": b"6", "folder": b"5", "device": b"3"}
    if kind == "drop":
        del members[index]
    elif kind == "double":
        members.append((members[index][0], rng.choice(members)[1]))
    elif kind == "name":
        members[index] = rng.choice(NAMES), members[index][1]
    with tarfile.open(path, f"w:{mode}") as archive, suppress(UnicodeError):
        for number, (name, content) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if kind in types and number == index:
                info.type, info.size = types[kind], 0
                info.linkname = rng.choice([name, members[0][0], "/etc/passwd", "../victim.png"])
            archive.addfile(info, io.BytesIO(content))
    return f"tar {kind}"


RUNS = b'cposix\nsystem\nX\x14\0\0\0touch "$FUZZ_CANARY"\x85R0'
STEPS = (
    *(RUNS, b"cfuzz_canary\nnet\n)R0", b"cbuiltins\neval\nX\x01\0\0\x001\x85R0"),
    *(
        b"r\xff\xff\xff\xff",
        b"]" * 100_000,
        b"K\1" + b"\x85" * 100_000,
        b"(" * 100_000,
        b"2" * 1000,
    ),
    *(b"}", b"]", b"N", b"(", b"t", b"u", b"s", b"a", b"e", b"b", b"R", b"0", b"1", b"2", b"\x94"),
    *(b"h\0", b"h\1", b"K\0", b"J\xff\xff\xff\xff", b"G\x7f\xf8\0\0\0\0\0\0", b".", b"Q", b"\x93"),
    *(
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\xff\xff\xff\xff\0\0\0\0",
        b"\x8b\xff\xff\xff\x7f",
    ),
)


def damage_pickle(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Other steps in a pickle, or two of its own in each other's place."""
    content = path.read_bytes()
    starts = [where for *_, where in pickletools.genops(content)]
    ends = [*starts[1:], len(content)]
    at, other = sorted([rng.randrange(1, len(starts)), rng.randrange(1, len(starts))])
    first, second = content[starts[at] : ends[at]], content[starts[other] : ends[other]]
    kind = rng.choice(["add", "add", "replace", "drop", "swap", "repeat"])
    new = rng.choice(STEPS)
    if kind == "add":
        content = content[: starts[at]] + new + content[starts[at] :]
    elif kind == "replace":
        content = content[: starts[at]] + new + content[ends[at] :]
    elif kind == "drop":
        content = content[: starts[at]] + content[ends[at] :]
    elif kind == "swap" and at != other:
        between = content[ends[at] : starts[other]]
        content = content[: starts[at]] + second + between + first + content[ends[other] :]
    elif kind == "repeat":
        content = content[: starts[at]] + first * rng.choice([2, 10_000]) + content[ends[at] :]
    path.write_bytes(content)
    return f"pickle {kind}"


def damage_torch(path: Path, rng: random.Random, others: list[Path]) -> str:
    """The same in a file of `torch.save`, with checksums that hold; or other members."""
    if not zipfile.is_zipfile(path):
        return damage_bytes(path, rng, others)
    if rng.random() < 0.4:
        return damage_zip(path, rng, others)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    path.write_bytes(members[pickled])
    done = damage_pickle(path, rng, others)
    members[pickled] = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return done


def damage_lines(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Other names in a list of files."""
    lines = path.read_text().splitlines()
    index = rng.randrange(len(lines))
    lines[index] = rng.choice(
        [
            *NAMES,
            "/dev/zero",
            "../victim.png",
            "list.txt",
            ".",
            "",
            lines[0],
            "http://x/y.png",
            "~/x.png",
        ]
    )
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return "line"


STRUCTURED: dict[str, Callable[[Path, random.Random, list[Path]], str]] = {
    ".json": damage_json,
    ".jsonl": damage_json,
    ".safetensors": damage_safetensors,
    ".npz": damage_zip,
    ".pkl": damage_pickle,
    ".pt": damage_torch,
    ".pth": damage_torch,
    ".zip": damage_zip,
    ".tar": damage_tar,
    ".gz": damage_tar,
    ".txt": damage_lines,
}


def mutated(folder: Path, pattern: str, rng: random.Random, others: list[Path]) -> Damage:
    """Damage one file of a folder in one way.

    Args:
        folder: Holds an input.
        pattern: Which of its files may be damaged.
        rng: Decides everything.
        others: Files to take foreign parts from.

    Returns:
        What was done.
    """
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.match(pattern)))
    name = path.relative_to(folder)
    structured, way = STRUCTURED.get(path.suffix), rng.random()
    damage = damage_bytes
    if way < 0.1:
        damage = damage_place
    elif way < 0.4 and structured is not None:
        damage = structured
    done = damage(path, rng, others)
    return Damage(f"{name}: {done}", damage is not damage_bytes or done == "splice")
