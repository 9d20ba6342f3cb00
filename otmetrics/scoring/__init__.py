"""From folders and files to scores with their noise floor and their protocol."""

import lazy_loader

# Loaded on first use, as the command line needs `scoring.ranks` before anything heavy. The function
# `score` has the name of its module here: it is `otmetrics.score`.
_HOME = {
    "extraction": ["extracted"],
    "feature_set": ["FeatureSet"],
    "options": ["METRICS", "Extraction", "Scoring"],
    "report": ["Floor", "Score", "ScoreReport"],
    "score": ["score_features"],
}

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_HOME)
