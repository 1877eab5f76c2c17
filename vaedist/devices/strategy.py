"""Devices and tf.distribute strategies: which one a worker uses, and the few things asked of it."""

from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.devices.compile_cache import keep_programs
from vaedist.devices.gpus import allow_tensor_float_32, promised_gpus
from vaedist.errors import ClusterError

# Bytes of each piece in which a ring of CPUs sends a tensor; TensorFlow's own 4096 take more of the processor, and of
# pieces that are larger than 128 KiB, or whole, the memory is asked of the system each time.
PIECE_BYTES = 32 << 10
OPTIONS = tf.compat.v1.ConfigProto()
OPTIONS.experimental.recv_buf_max_chunk = PIECE_BYTES


def configure_devices(threads: int, gpus: int, logical_devices: int, *, tensor_float_32: bool = False) -> None:
    """Set threads, GPU memory growth and logical devices; must come before anything else touches TensorFlow.

    Programs that are compiled for the CPU are kept (see `keep_programs`).

    Args:
        threads: for operations on the CPU.
        gpus: GPUs that the worker was given; 0 hides any that are there.
        logical_devices: devices that the CPU is split into.
        tensor_float_32: let GPUs round the factors of float32 products to TF32, which TensorFlow does by itself.

    Raises:
        ConfigError: a variable of the environment that says how many programs are kept is no number.
        ClusterError: TensorFlow sees fewer GPUs than the worker was given.
        RuntimeError: TensorFlow was used before.
    """
    keep_programs(threads)
    tf.compat.v1.enable_eager_execution(OPTIONS)  # it is on already: this is how it takes options
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(max(2, logical_devices))
    visible = promised_gpus(gpus)
    if gpus:
        allow_tensor_float_32(tensor_float_32)
    tf.config.set_visible_devices(visible, "GPU")
    for gpu in visible:
        tf.config.experimental.set_memory_growth(gpu, True)
    if logical_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * logical_devices)


def make_strategy(workers: int) -> Any:
    """MirroredStrategy over a lone worker's devices; MultiWorkerMirroredStrategy, by TF_CONFIG, across several."""
    gpus = tf.config.get_visible_devices("GPU")  # asking for logical ones would start TensorFlow's context too early
    if workers > 1:
        implementations = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=implementations.NCCL if gpus else implementations.RING
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def local_devices(strategy: Any) -> int:
    """Replicas that live in this process."""
    return len(strategy.extended.worker_devices)


def require_replicas(strategy: Any, workers: int, devices: int) -> None:
    """Compares a strategy's replicas with what was asked for.

    Args:
        strategy: as `make_strategy` made it.
        workers: of the run.
        devices: of each of them.

    Raises:
        ClusterError: there are more or fewer.
    """
    local, together = local_devices(strategy), strategy.num_replicas_in_sync
    if (local, together) != (devices, workers * devices):
        raise ClusterError(
            f"TensorFlow trains on {together} device(s), {local} of them this worker's, where {workers} worker(s) of "
            f"{devices} were asked for"
        )


def on_gpus(strategy: Any) -> bool:
    """Whether the replicas are on GPUs."""
    return any("GPU" in device for device in strategy.extended.worker_devices)


def local_replica(strategy: Any) -> int:
    """Number, among this process's replicas, of the one that asks; not to be asked inside a compiled function."""
    replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return int(replica) % local_devices(strategy)


def per_replica(strategy: Any, parts: np.ndarray) -> Any:
    """One tensor a local replica, from an array whose first axis counts the local replicas."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group % len(parts)])
    )


def first_local(strategy: Any, value: Any) -> Any:
    """The value of this process's first replica, of one that all replicas agree on."""
    return strategy.experimental_local_results(value)[0]
