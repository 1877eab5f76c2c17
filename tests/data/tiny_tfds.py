"""Data sets that are registered with tensorflow-datasets when this module is imported; none needs a network."""

from types import MappingProxyType
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from synthetic import CLASSES, image_rows

ROWS = MappingProxyType({"train": 20, "test": 6})


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Numbered images."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (4, 6, 3)
    DTYPE = "uint8"
    FEATURES: ClassVar = {}
    ROWS: ClassVar = ROWS

    def _info(self):
        image = tfds.features.Image(shape=self.SHAPE, dtype=getattr(np, self.DTYPE), encoding_format="png")
        features = tfds.features.FeaturesDict({"image": image, **self.FEATURES})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(rows) for split, rows in self.ROWS.items()}

    def _generate_examples(self, rows):
        for row, image in enumerate(image_rows(0, rows)):
            yield row, {"image": image} | ({"label": row % 3} if self.FEATURES else {})


class TinyNumbers(_Tiny):
    """Images with labels."""

    FEATURES: ClassVar = {"label": tfds.features.ClassLabel(names=CLASSES)}


class TinyUnlabelled(_Tiny):
    """Images without labels."""


class TinyTrainOnly(_Tiny):
    """No test images."""

    ROWS: ClassVar = {"train": 20}


class TinyValidated(_Tiny):
    """A split of validation images."""

    ROWS: ClassVar = {"train": 20, "validation": 5, "test": 6}


class TinyRagged(_Tiny):
    """Images of any size."""

    SHAPE = (None, None, 3)


class TinyDeep(_Tiny):
    """Images of 16 bits."""

    DTYPE = "uint16"

    def _generate_examples(self, rows):
        for row, image in enumerate(image_rows(0, rows)):
            yield row, {"image": image.astype(np.uint16) * 256 + row}


class TinyFloats(_Tiny):
    """Images of floats."""

    SHAPE = (4, 6, 1)
    DTYPE = "float32"


class TinyUnreachable(_Tiny):
    """Downloads a file from a server that does not respond, by FTP, which is not retried."""

    def _split_generators(self, dl_manager):
        dl_manager.download("ftp://127.0.0.1:1/images.zip")
        return super()._split_generators(dl_manager)


class TinyRefused(_Tiny):
    """Downloads a file from a server that does not respond, by HTTP."""

    def _split_generators(self, dl_manager):
        dl_manager.download("http://127.0.0.1:1/images.zip")
        return super()._split_generators(dl_manager)
