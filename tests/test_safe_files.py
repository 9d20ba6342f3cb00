"""Files that appear whole or not at all, and text that cannot forge a line."""

import os
import socket
from pathlib import Path

import pytest

from otmetrics.errors import DataError, OptionError, printable
from otmetrics.safe_files import check_replaceable, replace_file, user_path, writing


def test_a_link_that_waits_under_the_old_temporary_name_is_not_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out.npz.partial").symlink_to(precious)
    with replace_file(tmp_path / "out.npz") as file:
        file.write(b"new")
    assert (tmp_path / "out.npz").read_bytes() == b"new"
    assert precious.read_text() == "mine"


def test_a_target_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    precious, target = tmp_path / "precious", tmp_path / "out"
    precious.write_text("mine")
    target.symlink_to(precious)
    with replace_file(target) as file:
        file.write(b"new")
    assert not target.is_symlink()
    assert precious.read_text() == "mine"


def test_what_breaks_off_leaves_the_former_file_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    target.write_text("old")

    def broken_off():
        with replace_file(target) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_writers_do_not_share_a_file(tmp_path):
    target = tmp_path / "out"
    with replace_file(target) as one, replace_file(target) as other:
        one.write(b"one")
        other.write(b"other")
    assert target.read_bytes() == b"one"


def test_refusals_of_the_system_name_the_file(tmp_path):
    target = tmp_path / "missing" / "out"

    def refused():
        with writing(target), replace_file(target):
            pass

    with pytest.raises(DataError, match=r"out` cannot be written .*: choose"):
        refused()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ünïcode (1).png", "plain Ünïcode (1).png"),
        ("a\nerror: forged", r"a\nerror: forged"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("line\u2028end", r"line\u2028end"),
        ("bad\udcff", r"bad\udcff"),
    ],
)
@pytest.mark.parametrize("error", [DataError, OptionError])
def test_foreign_text_is_escaped(text, shown, error):
    assert printable(text) == shown
    assert str(error(text)) == shown


def special(folder, kind):
    """Something that no file may take the place of."""
    path = folder / "out.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        places = {"link to a device": "/dev/null", "stdout": "/proc/self/fd/1"}
        os.mkfifo(folder / "pipe")
        path.symlink_to(places.get(kind, folder / "pipe"))
    return path


@pytest.mark.skipif(os.name == "nt", reason="needs pipes")
@pytest.mark.parametrize(
    "kind", ["pipe", "socket", "folder", "link to a pipe", "link to a device", "stdout"]
)
def test_what_is_no_regular_file_is_not_replaced(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    path = special(Path(), kind)
    before = path.lstat()

    def written():
        with replace_file(path) as file:
            file.write(b"new")

    with pytest.raises(OSError, match="is not a regular file"):
        written()
    now = path.lstat()
    assert (now.st_ino, now.st_mode, now.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_mtime_ns,
    )
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.skipif(os.name == "nt", reason="needs devices")
@pytest.mark.parametrize("place", ["/dev/null", "/dev/stdout", "/dev/stdin", "/dev"])
def test_devices_are_told_before_anything_is_written(place):
    with pytest.raises(OSError, match="is not a regular file"):
        check_replaceable(Path(place))


def test_a_users_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_path("~/x") == Path("/home/somebody/x")
    assert user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_long_names_of_long_letters_are_written(tmp_path):
    target = tmp_path / ("\u754c" * 80 + ".npz")
    with replace_file(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"
