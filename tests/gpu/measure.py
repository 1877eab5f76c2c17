"""Parts of run.py that use TensorFlow alone: losses, speed and a profile.

    python tests/gpu/measure.py losses|speed|profile gpu|cpu

The last line of the output is a JSON object of tables, by caption; a table is a list of rows, of which the first is the
header.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

SHAPE, LANES = (32, 32, 3), 8
MODELS = {
    "mlp": (),
    "conv": ("model.type=conv", "model.likelihood=discretized_logistic"),
    "resnet": (
        "model.type=resnet", "model.levels=2", "model.blocks=2", "model.width=64", "model.latent=16",
        "model.residual_scale=1", "objective.free_bits=0.25", "training.ema_decay=0.999", "training.clip_norm=30000",
    ),
}  # fmt: skip
STEPS, ALLOWED = 20, 1e-4
BATCHES = {"gpu": (256, 1024, 32, 4096), "cpu": (32,)}  # the most important first
MIB = 2**20


SMALLER = {"mlp": (), "conv": ("model.width=8",), "resnet": ("model.width=16",)}  # on CPUs that stand in


def experiment(device, model, batch, precision="float32", steps=STEPS):
    """Returns an experiment with the sizes of a model on the device of the report."""
    from vaedist.config import Experiment

    sizes = (*MODELS[model], *(SMALLER[model] if device == "cpu" else ()))
    return Experiment().with_overrides(
        *sizes, f"training.global_batch={batch}", f"training.precision={precision}", f"training.steps_per_call={steps}"
    )


def images(count):
    """Returns smooth random images with some noise, [count, 32, 32, 3], uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.normal(0, 8, (count, *SHAPE)), 0, 255).astype(np.uint8)


def built(strategy, chosen):
    """Returns the training step of an experiment, with a model initialised from the images, and a chunk for it."""
    import tensorflow as tf

    from vaedist.data.lane_reader import LaneReader
    from vaedist.data.lanes import LanePlan
    from vaedist.models.build import build_model, training_policy
    from vaedist.models.rng import POSTERIOR, row_noise
    from vaedist.training.build import build_step
    from vaedist.training.initialisation import INITIAL_STEP

    batch, steps = chosen.training.global_batch, chosen.training.steps_per_call
    pixels = images(max(128, batch * steps))
    with strategy.scope():
        model = build_model(chosen, SHAPE, training_policy(chosen))
    if model.initial_rows:
        eps = row_noise(0, POSTERIOR, INITIAL_STEP, 0, model.initial_rows, model.noise)
        model.initialise(tf.constant(pixels[: model.initial_rows]), eps)
    step = build_step(chosen, model, strategy, steps_per_epoch=1000, global_batch=batch)
    plan = LanePlan(len(pixels), LANES, batch)
    replicas = strategy.num_replicas_in_sync
    reader = LaneReader(plan, [pixels[lane::LANES] for lane in range(LANES)], replicas=replicas, seed=0)
    return step, step.place(reader.read(0, 0, steps, steps))


def on(device, count=1):
    """Returns a strategy over `count` devices of a kind, after configuring this process."""
    import tensorflow as tf

    from vaedist.devices.strategy import configure_devices, make_strategy

    if device == "gpu" and count > 1:  # splits one GPU
        (gpu,) = tf.config.list_physical_devices("GPU")[:1]
        share = tf.config.LogicalDeviceConfiguration(memory_limit=8192)
        tf.config.set_visible_devices([gpu], "GPU")
        tf.config.set_logical_device_configuration(gpu, [share] * count)
        return make_strategy(1)
    configure_devices(2 if device == "cpu" else 8, int(device == "gpu"), count if device == "cpu" else 1)
    return make_strategy(1)


def losses_of(kind, count, device):
    """Prints the mean ELBO of each of the first steps of all models on `count` devices of a kind."""
    strategy, found = on(kind, count), {}
    for model in MODELS:
        step, chunk = built(strategy, experiment(device, model, 32))
        metrics, finite = step.run(chunk, 0)
        assert finite, f"{model}: step {len(metrics)} is not finite"
        found[model] = (metrics[:, 1] / metrics[:, 0]).tolist()
    print(json.dumps(found))


def child(*arguments):
    """Starts this script in another process."""
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def answer(process):
    """Returns the last line of a child as JSON."""
    out, _ = process.communicate()
    assert process.returncode == 0, f"a process ended with exit code {process.returncode}"
    return json.loads(out.splitlines()[-1])


def differences(one, other):
    """Returns the largest relative difference of two lists of numbers."""
    return float(np.max(np.abs(np.subtract(one, other)) / np.abs(one)))


def losses(device):
    """Compares the losses of the device with those of two logical devices, and of the CPU."""
    places = {"one": (device, 1), "two logical devices": (device, 2)} | ({"CPU": ("cpu", 1)} if device == "gpu" else {})
    processes = {place: child("losses-of", *where, device) for place, where in places.items()}
    found = {place: answer(process) for place, process in processes.items()}
    one, others = found.pop("one"), list(found)
    rows = [["model", f"first ELBO of {STEPS} steps", "last", *(f"relative difference, {place}" for place in others)]]
    faults = []
    for model, mine in one.items():
        apart = [differences(mine, found[place][model]) for place in others]
        rows.append([model, f"{mine[0]:.3f}", f"{mine[-1]:.3f}", *(f"{value:.1e}" for value in apart)])
        faults += [
            f"{model}, {place}: losses differ by {value:.1e}"
            for place, value in zip(others, apart, strict=True)
            if value > ALLOWED
        ]
    return {"": rows}, faults


def flops_of(model, device):
    """Prints the floating-point operations of a training step per image, counted in the program for CPUs."""
    from vaedist.bench.hlo_cost import work_of

    step, chunk = built(on("cpu"), experiment(device, model, 32, steps=1))
    print(json.dumps(work_of(step.program(chunk)).flops / 32))


@contextlib.contextmanager
def without_xla():
    """Runs steps as graphs of TensorFlow's own kernels."""
    import tensorflow as tf

    from vaedist.devices.compilation import traced

    def product(x, dy, dtype):
        return tf.cast(tf.matmul(x, dy, transpose_a=True), dtype)

    with (
        patch("vaedist.training.step.compiled", traced),
        patch("vaedist.training.step.on_gpus", lambda _: True),
        patch("vaedist.models.products._accumulated_product", product),
    ):
        yield


def rate_of(call, amount, seconds):
    """Returns amount per second of a call, which is first called twice."""
    call()
    call()
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        call()
        calls += 1
    return amount * calls / (time.perf_counter() - begun)


def peak(precision, size):
    """Returns the FLOP/s of products of large square matrices."""
    import tensorflow as tf

    from vaedist.devices.compilation import compiled

    dtype = tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32
    a = tf.cast(tf.random.stateless_normal((size, size), (0, 1)), dtype)
    function = compiled(lambda a: tf.matmul(tf.matmul(a, a), a)[0, 0])
    return rate_of(lambda: function(a).numpy(), 4 * size**3, 0.3)


def speed(device):
    """Measures images per second by model, precision, batch and compiler, the most important first, as time allows."""
    import tensorflow as tf

    flops = {model: child("flops-of", model, device) for model in MODELS}
    strategy, size = on(device), 8192 if device == "gpu" else 1024
    from vaedist.devices.gpus import allow_tensor_float_32

    begun, limit = time.monotonic(), 180 if device == "gpu" else 1000
    precisions = ("float32", "tf32", "mixed_bfloat16") if device == "gpu" else ("float32", "mixed_bfloat16")
    peaks = {}
    for precision in precisions:
        allow_tensor_float_32(precision == "tf32")
        peaks[precision] = peak(precision, size)
    flops = {model: answer(process) for model, process in flops.items()}
    rows = [["model", "precision", "compiler", "batch", "images/s", "TFLOP/s", "share of the peak", "memory, MiB"]]
    first, *others = BATCHES[device]
    orders = [(first, "XLA"), (first, "none"), *((batch, "XLA") for batch in others)]
    cases = [
        (compiler, batch, model, precision)
        for batch, compiler in [*orders, *((batch, "none") for batch in others)]
        for model in MODELS
        for precision in precisions
    ]
    skipped = 0
    for compiler, batch, model, precision in cases:
        if time.monotonic() - begun > limit:
            skipped += 1
            continue
        allow_tensor_float_32(precision == "tf32")
        if device == "gpu":
            tf.config.experimental.reset_memory_stats("GPU:0")
        try:
            with without_xla() if compiler == "none" else contextlib.nullcontext():
                step, chunk = built(strategy, experiment(device, model, batch, precision, 8 if batch < 1024 else 2))
                rate = rate_of(lambda step=step, chunk=chunk: step.run(chunk, 0), chunk.steps * batch, 0.5)
        except tf.errors.ResourceExhaustedError:
            rows.append([model, precision, compiler, batch, "out of memory", "", "", ""])
            continue
        memory = tf.config.experimental.get_memory_info("GPU:0")["peak"] // MIB if device == "gpu" else ""
        tera = rate * flops[model] / 1e12
        share = f"{tera * 1e12 / peaks[precision]:.0%}"
        rows.append([model, precision, compiler, batch, f"{rate:,.0f}", f"{tera:.2f}", share, memory])
        print(rows[-1], flush=True)
    tops = [["precision", f"TFLOP/s of products of {size} x {size}"]]
    tops += [[precision, f"{value / 1e12:.2f}"] for precision, value in peaks.items()]
    caption = f"steps ({skipped} combinations were skipped for lack of time)" if skipped else "steps"
    return {"peak": tops, caption: rows}, []


def profile(device):
    """Shows what a step of the ResNet VAE spends its time on."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step, chunk = built(on(device), experiment(device, "resnet", 256 if device == "gpu" else 16, steps=4))
    step.run(chunk, 0)
    with tempfile.TemporaryDirectory(prefix="profile") as folder:
        tf.profiler.experimental.start(folder)
        step.run(chunk, 4)
        tf.profiler.experimental.stop()
        (file,) = Path(folder).glob("**/*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    spent = {}
    for plane in space.planes:
        if device == "gpu" and "GPU" not in plane.name:
            continue
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                spent[name] = spent.get(name, 0.0) + event.duration_ps / 1e9
    rows = [["operation", f"ms in {chunk.steps} steps"]]
    rows += [
        [name[:90].replace("|", "/"), f"{ms:.2f}"] for name, ms in sorted(spent.items(), key=lambda each: -each[1])[:20]
    ]
    return {"the longest operations": rows}, []


def finish(tables, faults):
    """Prints the result of a part; returns its exit code."""
    print(json.dumps(tables), flush=True)
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def main():
    """Runs a part."""
    name, *arguments = sys.argv[1:]
    if name == "losses-of":
        losses_of(arguments[0], int(arguments[1]), arguments[2])
        return 0
    if name == "flops-of":
        flops_of(*arguments)
        return 0
    return finish(*{"losses": losses, "speed": speed, "profile": profile}[name](arguments[0]))


if __name__ == "__main__":
    sys.exit(main())
