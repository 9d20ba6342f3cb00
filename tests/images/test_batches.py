"""Order, completeness and clean ends of the threaded reader."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from otmetrics.errors import DataError
from otmetrics.images import DecodedImage, ImageArray, ImageFolder, Readers, ReadingReport, batches

ARRAY = np.random.default_rng(0).integers(0, 256, (13, 4, 5, 3), dtype=np.uint8)
SOURCE = ImageArray(ARRAY, "a.npy")
EXPECTED = torch.from_numpy(ARRAY).permute(0, 3, 1, 2)


def unchanged(image):
    return image


def stacked(batches):
    """All images of some batches."""
    return torch.stack(list(chain.from_iterable(batches)))


def reader_threads():
    return [thread for thread in threading.enumerate() if "otmetrics" in thread.name]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not reader_threads()


@pytest.fixture
def folder(tmp_path):
    """Six images, of which 1 is cut short, 2 has alpha and 4 is a link to nothing."""
    for index in range(6):
        Image.fromarray(ARRAY[index]).save(tmp_path / f"{index}.png")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[:60])
    alpha = np.full((4, 5, 1), 100, np.uint8)
    Image.fromarray(np.concatenate([ARRAY[2], alpha], axis=-1)).save(tmp_path / "2.png")
    (tmp_path / "4.png").unlink()
    (tmp_path / "4.png").symlink_to("nothing")
    return ImageFolder(tmp_path)


class Recording:
    """A source of numbered images that counts how many were asked for."""

    def __init__(self, number):
        self.names = tuple(f"image {index}" for index in range(number))
        self.asked = []

    def __len__(self):
        return len(self.names)

    def read(self, index):
        self.asked.append(index)
        return DecodedImage(torch.full((3, 2, 2), index, dtype=torch.uint8), False)


# --- order ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    batch_size=st.integers(1, 15),
    num_threads=st.integers(1, 5),
    indices=st.none() | st.lists(st.integers(0, 12), max_size=20),
)
def test_images_do_not_depend_on_threads_or_batch_size(batch_size, num_threads, indices):
    wanted = list(range(13)) if indices is None else indices
    result = list(
        batches(
            SOURCE,
            transform=unchanged,
            batch_size=batch_size,
            readers=Readers(num_threads),
            indices=indices,
        )
    )
    full, rest = divmod(len(wanted), batch_size)
    assert [len(batch) for batch in result] == [batch_size] * full + [rest] * (rest > 0)
    if result:
        assert torch.equal(stacked(result), EXPECTED[wanted])


def test_order_holds_when_early_images_are_slow():
    def slow_first(image):
        time.sleep(0.02 if image[0, 0, 0] % 3 == 0 else 0)
        return image

    result = batches(Recording(20), transform=slow_first, batch_size=4, readers=Readers(4))
    assert stacked(result)[:, 0, 0, 0].tolist() == list(range(20))


def test_transform_sees_single_images_of_any_size(tmp_path):
    for index, side in enumerate([3, 8, 5]):
        Image.new("RGB", (side, 2 * side), (index, 0, 0)).save(tmp_path / f"{index}.png")
    shapes = []

    def corner(image):
        shapes.append(tuple(image.shape))
        return image[:, 0, 0].float()

    (batch,) = batches(ImageFolder(tmp_path), transform=corner, batch_size=5, readers=Readers(1))
    assert shapes == [(3, 6, 3), (3, 16, 8), (3, 10, 5)]
    assert batch[0].dtype == torch.float32
    assert [corner[0] for corner in batch] == [0, 1, 2]


def test_look_ahead_is_bounded():
    source = Recording(200)
    iterator = batches(source, transform=unchanged, batch_size=4, readers=Readers(2))
    for handed_out in range(1, 11):
        next(iterator)
        time.sleep(0.005)
        assert len(source.asked) <= 4 * handed_out + 2 * 4 + 2
    iterator.close()


def test_the_next_batches_are_ready_while_the_consumer_works():
    source = Recording(200)
    iterator = batches(source, transform=unchanged, batch_size=4, readers=Readers(2))
    next(iterator)
    deadline = time.monotonic() + 5
    while len(source.asked) < 12 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(source.asked) >= 12
    iterator.close()


# --- unreadable images ----------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_unreadable_image_raises_in_its_place(folder, num_threads):
    iterator = batches(folder, transform=unchanged, batch_size=1, readers=Readers(num_threads))
    assert torch.equal(torch.stack(next(iterator)), EXPECTED[:1])
    with pytest.raises(DataError, match=r"1\.png` is "):
        next(iterator)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_unreadable_images_are_left_out_on_request(folder, num_threads, batch_size):
    report = ReadingReport()
    result = stacked(
        batches(
            folder,
            transform=unchanged,
            batch_size=batch_size,
            readers=Readers(num_threads),
            skip_corrupt=True,
            report=report,
        )
    )
    assert torch.equal(result[[0, 2, 3]], EXPECTED[[0, 3, 5]])
    assert (report.indices, report.done) == ([0, 2, 3, 5], 6)
    assert report.transparent == [False, True, False, False]
    assert (len(report.skipped), report.left_out) == (2, [1, 4])
    assert f"`{folder.path / '1.png'}` is " in report.skipped[0]
    assert f"`{folder.path / '4.png'}` does not exist" in report.skipped[1]


def test_nothing_is_left_when_all_are_left_out(folder):
    options = {"transform": unchanged, "batch_size": 2, "skip_corrupt": True}
    assert list(batches(folder, indices=[1, 4], **options)) == []


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_of_two_sizes_do_not_stack(tmp_path, batch_size):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "b.png")
    message = r"one size for these features: `a\.png` has the shape \(3, 3, 4\), `b\.png` \(3, 5, 4"
    with pytest.raises(DataError, match=message):
        list(batches(ImageFolder(tmp_path), transform=unchanged, batch_size=batch_size))


def test_images_of_two_sizes_pass_where_nobody_stacks_them(tmp_path):
    for index, side in enumerate([3, 8]):
        Image.new("RGB", (side, side)).save(tmp_path / f"{index}.png")
    source = ImageFolder(tmp_path)
    (batch,) = batches(source, transform=unchanged, batch_size=2, uniform=False)
    assert [image.shape for image in batch] == [(3, 3, 3), (3, 8, 8)]


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_uses_one_core_in_each_reading_thread_and_all_of_them_outside(threads):
    def cores(image):
        return torch.tensor(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert stacked(batches(SOURCE, transform=cores, batch_size=4)).unique().tolist() == [1]
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:  # a thread that starts later
            assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)


# --- ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 4])
def test_closing_early_stops_reading(num_threads):
    source = Recording(1000)
    iterator = batches(source, transform=unchanged, batch_size=2, readers=Readers(num_threads))
    next(iterator)
    iterator.close()
    asked = len(source.asked)
    assert asked < 20
    assert not reader_threads()
    time.sleep(0.02)
    assert len(source.asked) == asked


def test_an_iterator_that_was_never_started_has_no_threads():
    batches(SOURCE, transform=unchanged, batch_size=2).close()
    batches(SOURCE, transform=unchanged, batch_size=2)
    assert not reader_threads()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_of_the_consumer_stop_the_threads(error):
    def consume():
        for _ in batches(Recording(1000), transform=unchanged, batch_size=2):
            raise error

    with pytest.raises(error):
        consume()
    assert not reader_threads()


def test_errors_of_the_transform_are_raised_as_they_are():
    def failing(image):
        if image[0, 0, 0] == 5:
            raise ZeroDivisionError
        return image

    iterator = batches(Recording(50), transform=failing, batch_size=2, skip_corrupt=True)
    assert [len(next(iterator)) for _ in range(2)] == [2, 2]
    with pytest.raises(ZeroDivisionError):
        next(iterator)


@pytest.mark.parametrize("name", ["batch_size", "num_threads"])
@pytest.mark.parametrize("value", [0, -3])
def test_options_are_checked_at_the_call(name, value):
    batch_size, num_threads = (value, 1) if name == "batch_size" else (2, value)
    with pytest.raises(ValueError, match=f"`{name}` must be >= 1, got {value}."):
        batches(SOURCE, transform=unchanged, batch_size=batch_size, readers=Readers(num_threads))
