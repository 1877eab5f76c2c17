"""Nearest training images of generated images: a model that memorises generates copies of them."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

from vaedist.api import Run
from vaedist.data.rows import SplitRows
from vaedist.evaluation.encoding import RowEncoder
from vaedist.monitor.pictures import captioned, to_uint8

Distance = Literal["pixel", "latent"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)
BLOCK = 1024  # training images at a time
REFERENCES = 64  # test images


class Neighbours(NamedTuple):
    """Generated images with their nearest training images, the nearest first.

    Attributes:
        samples: uint8, [n, H, W, C].
        images: the neighbours, uint8, [n, k, H, W, C].
        rows: their numbers in the training split, [n, k].
        distances: their distances, [n, k].
        references: distance of test images to their nearest training image, [m].
    """

    samples: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    distances: np.ndarray
    references: np.ndarray

    def sheet(self) -> np.ndarray:
        """Returns a sheet with a row for each sample: the sample, then its neighbours with distances and numbers."""
        pictures, captions = [], []
        for number, sample in enumerate(self.samples):
            pictures += [sample, *self.images[number]]
            found = zip(self.distances[number], self.rows[number], strict=True)
            captions += [f"sample {number}\n ", *(f"{distance:.4f}\ntrain {row}" for distance, row in found)]
        return captioned(np.stack(pictures), captions, self.images.shape[1] + 1)


def nearest_training_images(
    run: Run,
    count: int,
    *,
    neighbours: int = 6,
    seed: int = 0,
    distance: Distance = "pixel",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Neighbours:
    """Returns the images of `Run.sample` with their nearest training images, and the distances of test images.

    The distance is the root mean square difference: of pixel values in [0, 1], or of encodings, which are the means of
    the base of the posterior, or samples of q(z|x) if the model has none. Test images, which the model has not seen,
    show which distances are usual: samples that are much closer to training images are copies of them.

    Args:
        run: the run.
        count: number of samples.
        neighbours: number of training images for each.
        seed: seed of the samples.
        distance: "pixel" or "latent".
        progress: called with the number of compared training images, and of all.

    Raises:
        DataError: the run's data set is missing or has changed.
    """
    train, test = run.rows("train"), run.rows("test")
    samples, seen = run.sample(count, seed=seed), test.read(0, REFERENCES)
    features = _pixels if distance == "pixel" else _encodings(run)
    queries = np.concatenate([features(to_uint8(samples)), features(seen)])
    found = _Nearest(queries, min(neighbours, train.rows))
    for start in range(0, train.rows, BLOCK):
        found.add(features(train.read(start, start + BLOCK)), start)
        progress(min(start + BLOCK, train.rows), train.rows)
    places = found.places[:count]
    images = np.stack([[train.read(place, place + 1)[0] for place in row] for row in places.tolist()])
    numbers = np.vectorize(lambda place: _number(train, place))(places)
    return Neighbours(to_uint8(samples), images, numbers, found.distances[:count], found.distances[count:, 0])


class _Nearest:
    """Keeps the nearest vectors of some queries, while blocks of vectors pass by.

    Attributes:
        distances: root mean square differences, increasing, [queries, k].
        places: places of the vectors, [queries, k].
    """

    def __init__(self, queries: np.ndarray, count: int) -> None:
        self._queries, self._count = queries.astype(np.float64), count
        self.distances = np.empty((len(queries), 0))
        self.places = np.empty((len(queries), 0), np.int64)

    def add(self, vectors: np.ndarray, first: int) -> None:
        """Considers vectors, [n, size], at the places from `first` on."""
        a, b = self._queries, vectors.astype(np.float64)  # float64, as the terms nearly cancel for near vectors
        squares = np.sum(a * a, 1)[:, None] - 2 * a @ b.T + np.sum(b * b, 1)
        distances = np.sqrt(np.maximum(squares, 0) / a.shape[1])
        places = np.broadcast_to(np.arange(first, first + len(b)), distances.shape)
        distances = np.concatenate([self.distances, distances], axis=1)
        places = np.concatenate([self.places, places], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : self._count]
        self.distances = np.take_along_axis(distances, order, axis=1)
        self.places = np.take_along_axis(places, order, axis=1)


def _pixels(images: np.ndarray) -> np.ndarray:
    """Returns the pixel values of uint8 images, [n, D], in [0, 1]."""
    return images.reshape(len(images), -1) / 255


def _encodings(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that encodes uint8 images, [n, H, W, C], to [n, latents]."""
    kinds = RowEncoder(run.model).kinds
    encoder = RowEncoder(run.model, kinds=["mean"] if "mean" in kinds else ["sample"])

    def encode(images: np.ndarray) -> np.ndarray:
        found = encoder.encode(images, np.arange(len(images)))
        return np.concatenate([found[name] for name in encoder.shapes], axis=1)

    return encode


def _number(rows: SplitRows, place: int) -> int:
    return int(rows.numbers(place, place + 1)[0])
