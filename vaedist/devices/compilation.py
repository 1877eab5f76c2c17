"""How functions are compiled: as they are written, without AutoGraph.

Loops and conditions over tensors are spelled out here (`tf.while_loop`, `tf.cond`), so that AutoGraph has nothing to
translate. It would write a file for each function that it looks at, which a process that is killed leaves behind.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def compiled(function: Callable[..., Any]) -> Any:
    """A function of tensors as one XLA program for each shape of its arguments."""
    return tf.function(function, jit_compile=True, autograph=False)


def scalar(value: float, dtype: Any) -> Any:
    """A number, another one at each call, as a tensor.

    TensorFlow keeps the tensor of every Python number that `tf.constant` was ever given, 750 bytes each; of arrays it
    keeps none.
    """
    return tf.constant(np.array(value, tf.as_dtype(dtype).as_numpy_dtype))


def program_text(function: Any, *args: Any) -> str:
    """XLA's optimized HLO of what `compiled` gave, for these arguments."""
    return str(function.experimental_get_compiler_ir(*args)(stage="optimized_hlo"))


def traced(function: Callable[..., Any]) -> Any:
    """A function of tensors as a graph for each shape of its arguments, of TensorFlow's own kernels."""
    return tf.function(function, autograph=False)
