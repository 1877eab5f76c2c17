"""Reads all events of a folder, as TensorBoard does but without sampling."""

import io

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray


class Board:
    """Contents of the event files directly in a folder.

    Attributes:
        reader: TensorBoard's reader.
    """

    def __init__(self, folder):
        keep_all = dict.fromkeys(("scalars", "images", "histograms"), 0)
        self.reader = EventAccumulator(str(folder), size_guidance={"tensors": 0}, tensor_size_guidance=keep_all)
        self.reader.Reload()

    def tags(self, plugin="scalars"):
        """Returns the tags that a plugin shows."""
        found = set(self.reader.Tags()["tensors"])
        return {tag for tag in found if self.reader.SummaryMetadata(tag).plugin_data.plugin_name == plugin}

    def curve(self, tag):
        """Returns steps and values of a scalar, none if there is no such tag."""
        return [(step, float(value)) for step, value in self.points(tag)] if tag in self.tags() else []

    def last(self, tag):
        """Returns the last value of a scalar."""
        return self.curve(tag)[-1][1]

    def points(self, tag):
        """Returns steps and arrays of a tag."""
        return [(event.step, make_ndarray(event.tensor_proto)) for event in self.reader.Tensors(tag)]

    def picture(self, tag):
        """Returns the step and the pixels of the newest picture, and its width and height as TensorBoard reads them."""
        step, (width, height, content, *_) = self.points(tag)[-1]
        with Image.open(io.BytesIO(content)) as picture:
            return step, np.asarray(picture), (int(width), int(height))

    def description(self, tag):
        return self.reader.SummaryMetadata(tag).summary_description
