"""The part of a model card that shows how to load and call the exported model."""

import re
from collections.abc import Iterator

from vaedist.evaluation.scoring import score_layout
from vaedist.export.origin import Origin
from vaedist.models.model import Model
from vaedist.packages import references

SAVED_MODEL, VERSION = "saved_model", "1"  # TensorFlow Serving looks for versions in the folder of a model
KERAS_FILE = "model.keras"


def loading(origin: Origin, model: Model) -> Iterator[str]:
    """Yields the paragraphs of a model card about its files and functions, with code to copy."""
    shape, latents = ", ".join(map(str, model.image_shape)), score_layout(model).size
    name, kind = re.sub(r"[^A-Za-z0-9_.-]", "-", origin.name), type(model)
    needs = ["vaedist", *_packages(origin)]
    yield "## Files"
    yield (
        f"- `{SAVED_MODEL}/{VERSION}/`: the functions below as a TensorFlow SavedModel, which needs TensorFlow only.\n"
        f"- `{KERAS_FILE}`: the model as a Keras file, which needs {' and '.join(needs)}.\n"
        "- `experiment.toml`: the experiment that trained it."
    )
    yield "## Use with TensorFlow"
    yield f"""```python
import numpy as np
import tensorflow as tf

model = tf.saved_model.load("{SAVED_MODEL}/{VERSION}")
images = np.zeros((2, {shape}), np.uint8)  # any number of images
z = model.encode(images, seed=0)["z"]  # [2, {latents}], a sample of q(z|x)
pictures = model.decode(z)["images"]  # [2, {shape}], E[x|z] in [0, 1]
pictures = model.generate(4, seed=0, temperature=1.0)["images"]  # [4, {shape}], from the prior
elbo = model.score(images)["elbo"]  # [2], in nats
```"""
    yield _functions(model, latents)
    yield "## Use with Keras"
    yield f"""```python
from {kind.__module__} import {kind.__name__}  # registers the class with Keras

import keras

model = keras.models.load_model("{KERAS_FILE}")  # a vaedist.Model, with encode, score, decode and generate
```"""
    yield "## Use with TensorFlow Serving"
    yield f"""```sh
docker run -p 8501:8501 -v "$PWD/{SAVED_MODEL}:/models/{name}" -e MODEL_NAME={name} tensorflow/serving
curl http://localhost:8501/v1/models/{name}:predict -d '{{"signature_name": "generate",
  "inputs": {{"count": 4, "seed": 0, "first_row": 0, "temperature": 1.0}}}}'
saved_model_cli show --dir {SAVED_MODEL}/{VERSION} --tag_set serve --signature_def generate
```"""


def _functions(model: Model, latents: int) -> str:
    shape, layers = ", ".join(map(str, model.image_shape)), score_layout(model).latents
    if len(layers) > 1:
        parts = ", ".join(f"`{name}` {list(each)}" for name, each in layers.items())
        by_layer = (
            f"z concatenates the flattened latents of the layers {parts}. `score` also has the KL divergence of each "
            "layer, such as `kl_" + next(iter(layers)) + "`.\n\n"
        )
    else:
        by_layer = ""
    return f"""Each function is also a signature of the SavedModel:

| function | inputs | outputs |
|---|---|---|
| `encode` | `images` uint8 [n, {shape}], `seed`, `first_row` | `z` [n, {latents}], a sample of q(z\\|x); if the model \
has them, `mean` and `log_sigma` of the normal distribution from which z, or the input of its flow, is drawn |
| `decode` | `z` float32 [n, {latents}] | `images` float32 [n, {shape}], E[x\\|z] in [0, 1] |
| `reconstruct` | `images`, `seed`, `first_row` | `images`, `decode` of `encode` |
| `score` | `images`, `seed`, `first_row` | `elbo`, `reconstruction` and `kl` [n], in nats, from one sample of z |
| `generate` | `count`, `seed`, `first_row`, `temperature` | `images`, E[x\\|z] with z from the prior |
| `generate_pixels` | as `generate` | `images` whose pixels are drawn from p(x\\|z) |

`encode_float`, `reconstruct_float` and `score_float` take float32 images in [0, 1], and round them to the nearest of \
the 256 levels k / 255. `seed`, `first_row` and `count` are int64 scalars, and `temperature`, a factor on the standard \
deviations of the prior, is a float32 scalar. In Python, `seed` and `first_row` default to 0 and `temperature` to 1.

{by_layer}All noise depends on the seed and on the number of the image alone: image i of a call is number \
`first_row` + i. `vaedist.load_run` returns an object whose methods `encode`, `decode`, `reconstruct`, `score` and \
`sample` give the same numbers, up to rounding. A GPU may round products to TF32, unless \
`tf.config.experimental.enable_tensor_float_32_execution(False)` is called. The functions are graphs of TensorFlow's \
operations, for CPUs and GPUs, and are not compiled by XLA."""


def _packages(origin: Origin) -> list[str]:
    """Returns the names of the packages of users' code that the model needs."""
    named = references(origin.experiment.model.model_dump())
    return sorted({f"the package `{reference.partition(':')[0].partition('.')[0]}`" for reference in named})
