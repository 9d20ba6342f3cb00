"""Images in, features out, with the network never waiting for what can be done meanwhile."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.preprocessing import Preprocessing
from otmetrics.machine import ieee_float32


class Pipeline(NamedTuple):
    """How images become features, split between the threads that read them and the caller's.

    Attributes:
        prepare: Called on each uint8 image (3, H, W), in the reading threads.
        features: Turns batches of what `prepare` returned into features (N, D) on the CPU, in
            order.
        uniform: Whether all that `prepare` returns must have one shape.
        num_threads: How many reading threads suit it.
        pin_memory: Whether it copies images to a GPU.
    """

    prepare: Callable[[Tensor], Tensor]
    features: Callable[[Iterable[list[Tensor]]], Iterator[Tensor]]
    num_threads: int
    uniform: bool = True
    pin_memory: bool = False


def pipeline(
    extractor: FrozenExtractor, batch_size: int, *, in_processes: bool = False
) -> Pipeline:
    """Split the work on images as suits the extractor and its device.

    - A compiled network computes each image in the thread that read it; there are more threads
      than cores, so that one reads while another waits for its features.
    - On a GPU the threads only read; images go there as they are, are resized there, and the
      features of a batch come back while the next one is computed.
    - Else the threads read and resize, and torch runs the network in batches.

    torch's kernels depend on the size of a batch, so a short batch is filled up with copies of its
    last image: features do not depend on how many images there are.

    Args:
        extractor: The extractor.
        batch_size: Most images per batch of `Pipeline.features`.
        in_processes: Whether processes read, which leave the network to this one.

    Returns:
        Both halves of the work, and how many threads share the first.
    """
    preprocessing = extractor.preprocessing
    compiled = extractor.compiled_network()
    if compiled is not None and preprocessing is not None and not in_processes:
        # Not `extractor.features`, which would ask each time whether the weights have changed.
        return Pipeline(
            lambda image: compiled(preprocessing(image)[None])[0],
            _thread_features,
            2 * compiled.num_threads,
        )

    cores = torch.get_num_threads()
    if extractor.device.type == "cuda" and preprocessing is not None:
        gpu = partial(_on_gpu, extractor, batch_size)
        fitting = partial(_fitting, preprocessing)
        return Pipeline(fitting, gpu, cores, uniform=False, pin_memory=True)
    return Pipeline(preprocessing or _identity, partial(_in_batches, extractor, batch_size), cores)


def _identity(image: Tensor) -> Tensor:
    """Leave an image as it was read."""
    return image


def _fitting(preprocessing: Preprocessing, image: Tensor) -> Tensor:
    """Leave an image to the GPU; raise here, where its file is known, if it cannot be resized."""
    preprocessing.resized_shape(*image.shape[-2:])
    return image


def _thread_features(batches: Iterable[list[Tensor]]) -> Iterator[Tensor]:
    """Features that the reading threads computed."""
    with ieee_float32(torch.device("cpu")):  # for the threads, which start at the first batch
        yield from map(torch.stack, batches)


def _in_batches(
    extractor: FrozenExtractor, size: int, batches: Iterable[list[Tensor]]
) -> Iterator[Tensor]:
    """Features by torch, one batch after the other."""
    with ieee_float32(torch.device("cpu")):  # for the threads, which resize
        for images in batches:
            padded = images + [images[-1]] * (size - len(images))
            with torch.no_grad():
                features = extractor.features(torch.stack(padded))
            yield features[: len(images)].cpu()


def _on_gpu(
    extractor: FrozenExtractor, size: int, batches: Iterable[list[Tensor]]
) -> Iterator[Tensor]:
    """Features by a GPU, which computes a batch while the threads read the next one."""
    under_way: tuple[Tensor, torch.cuda.Event] | None = None
    for images in batches:
        with torch.no_grad(), torch.cuda.device(extractor.device):
            inputs = torch.cat(_upload(extractor, images))
            if len(inputs) < size:
                inputs = torch.cat([inputs, inputs[-1:].expand(size - len(inputs), -1, -1, -1)])
            features = extractor.features(inputs.contiguous(memory_format=torch.channels_last))
            # Only into pinned memory does a GPU copy while the program goes on.
            copied = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            copied.copy_(features, non_blocking=True)
            event = torch.cuda.Event()
            event.record()

        # One batch late, so that the GPU has the next one before anybody waits for this one.
        if under_way is not None:
            yield _wait_for(*under_way)
        under_way = copied[: len(images)], event
    if under_way is not None:
        yield _wait_for(*under_way)


def _upload(extractor: FrozenExtractor, images: list[Tensor]) -> list[Tensor]:
    """Network inputs on the GPU, of images whose sizes may differ."""
    parts = _copy_to_gpu(images, extractor.device)
    if all(part.shape == parts[0].shape for part in parts):
        return [extractor.preprocess(torch.stack(parts))]
    return [extractor.preprocess(part[None]) for part in parts]


def _copy_to_gpu(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """Images on the GPU; those in ordinary memory by one copy through pinned memory."""
    if all(image.is_pinned() for image in images):
        return [image.to(device, non_blocking=True) for image in images]
    sizes = [image.numel() for image in images]
    flat = torch.empty(sum(sizes), dtype=images[0].dtype, pin_memory=True)
    torch.cat([image.flatten() for image in images], out=flat)
    parts = flat.to(device, non_blocking=True).split(sizes)
    return [part.view(image.shape) for part, image in zip(parts, images, strict=True)]


def _wait_for(features: Tensor, event: torch.cuda.Event) -> Tensor:
    """Features that a GPU has copied into pinned memory, in ordinary memory."""
    event.synchronize()
    return features.clone()
