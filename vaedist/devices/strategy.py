"""Devices of a worker, and its tf.distribute strategy."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from vaedist.devices.compile_cache import keep_programs
from vaedist.devices.gpus import allow_tensor_float_32, memory_of_first, promised_gpus, share_of_memory
from vaedist.errors import ClusterError
from vaedist.wording import counted

# Size of the chunks in which a ring of CPUs sends a tensor. TensorFlow's default of 4096 bytes takes more CPU time, and
# memory for chunks above 128 KiB is allocated from the system each time.
PIECE_BYTES = 32 << 10
OPTIONS = tf.compat.v1.ConfigProto()
OPTIONS.experimental.recv_buf_max_chunk = PIECE_BYTES


def configure_devices(
    threads: int, gpus: float, logical_devices: int, *, tensor_float_32: bool = False, deterministic: bool = False
) -> None:
    """Configures threads, GPU memory growth, logical devices and the cache of compiled programs (`keep_programs`).

    It must be called before TensorFlow is used for anything else.

    Args:
        threads: threads for operations on the CPU.
        gpus: number of GPUs assigned to the worker, or the fraction of one, whose memory it shares; 0 hides all GPUs.
        logical_devices: number of devices that the CPU is split into.
        tensor_float_32: allow GPUs to round the factors of float32 products to TF32, TensorFlow's own default.
        deterministic: use only operations of GPUs that give the same bits each time.

    Raises:
        ConfigError: the size limit of the program cache in the environment is not a number.
        ClusterError: TensorFlow sees fewer GPUs than the worker was assigned.
        RuntimeError: TensorFlow was used before.
    """
    keep_programs(threads)
    tf.compat.v1.enable_eager_execution(OPTIONS)  # eager execution is on anyway; this call sets the options
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(max(2, logical_devices, math.ceil(gpus)))
    visible = promised_gpus(math.ceil(gpus))
    if gpus:
        allow_tensor_float_32(tensor_float_32)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
    tf.config.set_visible_devices(visible, "GPU")
    if 0 < gpus < 1:
        limit = share_of_memory(gpus, memory_of_first())
        tf.config.set_logical_device_configuration(visible[0], [tf.config.LogicalDeviceConfiguration(limit)])
    else:
        for gpu in visible:
            tf.config.experimental.set_memory_growth(gpu, True)
    if logical_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * logical_devices)


def make_strategy(workers: int) -> Any:
    """Returns a MirroredStrategy for a single worker, or a MultiWorkerMirroredStrategy (by TF_CONFIG) for several."""
    gpus = tf.config.get_visible_devices("GPU")  # listing logical ones would start TensorFlow's context too early
    if workers > 1:
        implementations = tf.distribute.experimental.CommunicationImplementation
        options = tf.distribute.experimental.CommunicationOptions(
            implementation=implementations.NCCL if gpus else implementations.RING
        )
        return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def local_devices(strategy: Any) -> int:
    """Returns the number of replicas in this process."""
    return len(strategy.extended.worker_devices)


def require_replicas(strategy: Any, workers: int, devices: int) -> None:
    """Checks that a strategy has the requested number of replicas.

    Args:
        strategy: a strategy made by `make_strategy`.
        workers: number of workers of the run.
        devices: number of devices of each worker.

    Raises:
        ClusterError: it has more or fewer.
    """
    local, together = local_devices(strategy), strategy.num_replicas_in_sync
    if (local, together) != (devices, workers * devices):
        raise ClusterError(
            f"TensorFlow trains on {counted(together, 'device')}, {local} of them on this worker; requested were "
            f"{counted(workers, 'worker')} of {counted(devices, 'device')}"
        )


def on_gpus(strategy: Any) -> bool:
    """Returns True if the replicas are on GPUs."""
    return any("GPU" in device for device in strategy.extended.worker_devices)


def local_replica(strategy: Any) -> int:
    """Returns the calling replica's index among those of this process; must not be called in a compiled function."""
    replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return int(replica) % local_devices(strategy)


def per_replica(strategy: Any, parts: np.ndarray) -> Any:
    """Returns one tensor for each local replica, on its device, from an array whose first axis is the local replica."""
    devices = strategy.extended.worker_devices

    def part(context: Any) -> Any:
        local = context.replica_id_in_sync_group % len(parts)
        with tf.device(devices[local]):
            return tf.convert_to_tensor(parts[local])

    return strategy.experimental_distribute_values_from_function(part)


def first_local(strategy: Any, value: Any) -> Any:
    """Returns this process's first replica's copy of a value that is the same on all replicas."""
    return strategy.experimental_local_results(value)[0]
