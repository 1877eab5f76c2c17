"""Sources of images: each is a module with one function that returns an `ImageSource`."""

from vaedist.data.sources.cifar10 import cifar10_archive
from vaedist.data.sources.folder import folder
from vaedist.data.sources.idx import idx_folder
from vaedist.data.sources.npz import npz_file
from vaedist.data.sources.photos import photos
from vaedist.data.sources.source import Batch, ImageSource
from vaedist.data.sources.tfds import tfds_source, without_network

__all__ = [
    "Batch",
    "ImageSource",
    "cifar10_archive",
    "folder",
    "idx_folder",
    "npz_file",
    "photos",
    "tfds_source",
    "without_network",
]
