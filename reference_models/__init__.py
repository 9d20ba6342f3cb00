"""The bundled reference GANs, imported as `otmetrics.reference_models`.

The folder lies beside the package so that the models can be read on their own. No model has landed
yet: this name is reserved, and importing it gives an empty module.
"""
