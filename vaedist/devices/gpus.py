"""GPUs of a worker: checks that TensorFlow sees them, with the reason if it does not, their memory and arithmetic."""

import ctypes
import os

import tensorflow as tf

from vaedist.errors import ClusterError
from vaedist.tensorflow_log import DRIVER

CONTEXT_BYTES = (
    600 << 20
)  # memory of a process on a GPU besides TensorFlow's tensors: CUDA's context, kernels, workspaces
VISIBLE = "CUDA_VISIBLE_DEVICES"


def promised_gpus(count: int) -> list[tf.config.PhysicalDevice]:
    """Returns the first `count` GPUs that TensorFlow sees.

    Raises:
        ClusterError: TensorFlow sees fewer; the message says why.
    """
    found = tf.config.list_physical_devices("GPU")
    if len(found) < count:
        raise ClusterError(
            f"a worker on {os.uname().nodename} was assigned {count} GPU(s), and TensorFlow sees {len(found)}: "
            f"{missing_because(len(found))}; fix it, or start Ray there with the --num-gpus that work "
            "(`vaedist doctor` checks every node)"
        )
    return found[:count]


def missing_because(seen: int) -> str:
    """Returns why TensorFlow sees only `seen` GPUs, as far as it is known."""
    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA"
    count, fault = _driver()
    if fault:
        return fault
    visible = os.environ.get(VISIBLE)
    if count <= seen:
        limited = f", with {VISIBLE} = {visible!r}" if visible is not None else ""
        return f"NVIDIA's driver shows no more{limited}"
    return f"NVIDIA's driver shows {count}, but TensorFlow cannot load its CUDA libraries (pip install '.[gpu]')"


def share_of_memory(fraction: float, total: int) -> int:
    """Returns the MiB that TensorFlow may allocate in a process that has a fraction of a GPU with `total` bytes.

    Raises:
        ClusterError: the fraction is too small for any process.
    """
    share = int(fraction * total) - CONTEXT_BYTES
    if share < CONTEXT_BYTES:
        raise ClusterError(
            f"scaling.gpus_per_worker = {fraction:g}: that part of a GPU with {total / 2**30:.1f} GiB of memory has no "
            f"room for a process; it must be at least {2 * CONTEXT_BYTES / total:.2f}"
        )
    return share >> 20


def memory_of_first() -> int:
    """Returns the bytes of memory of the first GPU that this process may use, from NVIDIA's driver.

    Raises:
        ClusterError: the driver does not say.
    """
    driver, device, total = ctypes.CDLL(DRIVER), ctypes.c_int(), ctypes.c_size_t()
    code = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
    if code := code or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        raise ClusterError(f"NVIDIA's driver does not say how much memory the GPU has (CUDA error {code})")
    return total.value


def configure_gpus() -> None:
    """Configures all visible GPUs for a process that shares them with others and whose results are reported.

    Memory is allocated as needed, and products of float32 are not rounded to TF32. TensorFlow must not have used a GPU
    before.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    allow_tensor_float_32(False)


def allow_tensor_float_32(allowed: bool) -> None:
    """Allows or forbids GPUs to round the factors of float32 products to TF32, in programs compiled from now on."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def _driver() -> tuple[int, str]:
    """Returns the number of GPUs that NVIDIA's driver shows to this process, and the fault of the driver, if any."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0, f"there is no NVIDIA driver ({DRIVER} is not found)"
    count = ctypes.c_int()
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        if code == 100:  # CUDA_ERROR_NO_DEVICE
            return 0, ""
        return 0, f"NVIDIA's driver does not start (CUDA error {code})"
    return count.value, ""
