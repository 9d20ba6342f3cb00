"""Images (N, 3, H, W) in, features (N, D) out: the frozen networks to measure distances in."""

from otmetrics.features.catalog import (
    DEFAULT_EXTRACTOR,
    EXTRACTORS,
    ExtractorInfo,
    is_available,
    is_installed,
    is_known,
    load_extractor,
)
from otmetrics.features.extractor import FrozenExtractor
from otmetrics.features.pipeline import Pipeline, pipeline
from otmetrics.features.preprocessing import RESIZE_MODES, Preprocessing

__all__ = [
    "DEFAULT_EXTRACTOR",
    "EXTRACTORS",
    "RESIZE_MODES",
    "ExtractorInfo",
    "FrozenExtractor",
    "Pipeline",
    "Preprocessing",
    "is_available",
    "is_installed",
    "is_known",
    "load_extractor",
    "pipeline",
]
