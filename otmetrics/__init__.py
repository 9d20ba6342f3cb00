"""How far generated data is from real data, measured by optimal transport in feature space.

The public names stand in `__init__.pyi` and load on first use, so that `import otmetrics` costs
nothing. `otmetrics.cli` and `otmetrics.reference_models` lie next to this folder, in `cli/` and
`reference_models/`.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("otmetrics")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
