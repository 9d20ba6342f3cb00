"""Folders, archives and arrays -> checked uint8 images: the only reader of image files."""

from otmetrics.images.arrays import FeatureArray, ImageArray, checked_features, loaded_array
from otmetrics.images.decode import DecodedImage, decoded_image, write_png
from otmetrics.images.demo import write_demo
from otmetrics.images.files import EXTENSIONS, ImageFolder, ImageSource, StoredImages
from otmetrics.images.limits import MAX_PIXELS
from otmetrics.images.named import open_torchvision
from otmetrics.images.opening import open_input
from otmetrics.images.reading import Readers, ReadingReport, batches
from otmetrics.images.statistics import Statistics
from otmetrics.images.thumbnails import thumbnail

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "DecodedImage",
    "FeatureArray",
    "ImageArray",
    "ImageFolder",
    "ImageSource",
    "Readers",
    "ReadingReport",
    "Statistics",
    "StoredImages",
    "batches",
    "checked_features",
    "decoded_image",
    "loaded_array",
    "open_input",
    "open_torchvision",
    "thumbnail",
    "write_demo",
    "write_png",
]
