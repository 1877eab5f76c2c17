"""Launching on Ray, the only package that imports it."""

import logging

logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # in notebooks, it recommends to install ipywidgets
