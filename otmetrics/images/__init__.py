"""Folders, archives and arrays -> checked uint8 images: the only reader of image files."""

from otmetrics.images.arrays import FeatureArray, ImageArray, checked_features
from otmetrics.images.batches import ReadingReport, batches
from otmetrics.images.decode import MAX_PIXELS, DecodedImage, decoded_image
from otmetrics.images.demo import write_demo
from otmetrics.images.names import EXTENSIONS
from otmetrics.images.npz import loaded_array
from otmetrics.images.opening import opened
from otmetrics.images.sources import ImageFolder, ImageSource, StoredImages
from otmetrics.images.writing import write_png

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "DecodedImage",
    "FeatureArray",
    "ImageArray",
    "ImageFolder",
    "ImageSource",
    "ReadingReport",
    "StoredImages",
    "batches",
    "checked_features",
    "decoded_image",
    "loaded_array",
    "opened",
    "write_demo",
    "write_png",
]
