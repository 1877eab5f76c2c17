"""Raises an error unless Keras's backend is TensorFlow; modules that use Keras import this one."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"vaedist needs Keras on TensorFlow, but KERAS_BACKEND is {keras.backend.backend()!r}: "
        "set KERAS_BACKEND=tensorflow or import vaedist before keras"
    )
