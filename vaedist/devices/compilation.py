"""Compilation of functions of tensors, without AutoGraph.

vaedist writes loops and conditions over tensors as `tf.while_loop` and `tf.cond`, so AutoGraph has nothing to convert.
It would write a temporary file for each function that it inspects, which a killed process leaves behind.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function of tensors to one XLA program for each combination of argument shapes."""
    return tf.function(function, jit_compile=True, autograph=False)


def scalar(value: float, dtype: Any) -> Any:
    """Returns a number as a tensor, without filling TensorFlow's cache of constants.

    TensorFlow caches a tensor for every Python number that `tf.constant` was ever given, 750 bytes each, but none for
    arrays. Use this function for numbers that differ at each call, such as steps.
    """
    return tf.constant(np.array(value, tf.as_dtype(dtype).as_numpy_dtype))


def program_text(function: Any, *args: Any) -> str:
    """Returns XLA's optimized HLO of a `compiled` function for these arguments."""
    return str(function.experimental_get_compiler_ir(*args)(stage="optimized_hlo"))


def traced(function: Callable[..., Any]) -> Any:
    """Traces a function of tensors to a graph of TensorFlow's kernels, one for each combination of argument shapes."""
    return tf.function(function, autograph=False)
