"""The bundled reference GANs, imported as `otmetrics.reference_models`.

The folder lies beside the package so that the models can be read on their own: start with
`training.py`, the loop, and `objectives/`, what it minimises.
"""
