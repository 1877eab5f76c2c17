"""A package of users' models for tests: options that need no Keras, and classes that violate the interface."""

FILES = {
    "__init__.py": "",
    "options.py": '''
from typing import Literal

from pydantic import Field, model_validator

from vaedist import ModelOptions
from vaedist.config import Section


class StageOptions(Section):
    """A stage."""

    blocks: int = Field(default=2, ge=1, le=8, description="Residual blocks.")
    name: str = Field(default="first", description="Label of the stage.")


class ToyOptions(ModelOptions):
    """Sizes of the toy."""

    channels: int = Field(default=16, ge=1, description="Channels of the first layer.")
    norm: Literal["batch", "group"] = Field(default="batch", description="Normalisation.")
    stage: StageOptions = StageOptions(blocks=3)

    @model_validator(mode="after")
    def _fits(self):
        if self.channels == 13:
            raise ValueError("channels = 13: must be another number")
        if self.channels == 14:
            raise RuntimeError("fourteen")
        return self
''',
    "light.py": '''
from toys_of_test.options import ToyOptions
from vaedist.models.flows.options import AnyFlowOptions, IAFOptions


class Toy:
    """Its options can be read without Keras; it is no model."""

    Options = ToyOptions


class Picky(Toy):
    """Takes no binary pixels."""

    class Options(ToyOptions):
        """Sizes."""

        def preprocessing(self, binarize):
            if binarize == "fixed":
                raise ValueError(f"data.binarize = {binarize!r}: this model draws pixels itself")
            if binarize == "dynamic":
                return {}[binarize]
            return super().preprocessing(binarize)


class Demanding(Toy):
    class Options(ToyOptions):
        rate: float
        note: str | None = None
        sizes: tuple[int, ...] = (3, 3)


class Flowing(Toy):
    class Options(ToyOptions):
        flow: AnyFlowOptions = IAFOptions()


class NoOptions:
    pass


class WrongOptions:
    Options = dict


def helper():
    pass
''',
    "broken.py": "import json\n\n\ndef read():\n    return json.loads('{')\n\n\nread()\n",
    "untyped.py": "def f(:\n",
    "missing.py": "import nowhere_to_be_found\n",
    "leaving.py": "import sys\n\nsys.exit('no license')\n",
    "models.py": """
from toys_of_test.options import ToyOptions
from vaedist.models.model import Model


class Partial(Model):
    Options = ToyOptions

    def encode(self, images, u=None, *, training=False):
        return images

    def decode(self, latents, u=None):
        return latents


class Whole(Partial):
    def __init__(self, image_shape, options, *, preprocessing, seed, dtype):
        super().__init__(image_shape, preprocessing=preprocessing, seed=seed, dtype=dtype)
        self.options = options
        if options.channels == 1:
            raise ZeroDivisionError("one channel")

    def score(self, encoding, eps, *, training=False):
        return None

    def latents(self, encoding, eps):
        return {}
""",
    "flows.py": """
from keras import ops

from vaedist import Flow, FlowOptions, FlowOutput


class Scaling(Flow):
    Options = FlowOptions

    def __init__(self, latent, options, *, context, seed, **kwargs):
        super().__init__(latent, options, context=context, seed=seed, **kwargs)
        if options.depth == 13:
            raise ZeroDivisionError("thirteen steps")

    def call(self, z, h):
        return FlowOutput(2 * z, ops.full_like(z, 0.6931471805599453))


class ByImage(Scaling):
    '''The log-determinant has no axis of latents.'''

    def call(self, z, h):
        return FlowOutput(2 * z, ops.sum(ops.full_like(z, 0.6931471805599453), axis=-1), {"size": ops.sum(z, -1)})


class Bare(Scaling):
    def call(self, z, h):
        return 2 * z


class Short(Scaling):
    def call(self, z, h):
        return FlowOutput(z[..., 1:], z)


class Narrow(Scaling):
    def call(self, z, h):
        return FlowOutput(z, z[..., :2])


class Raising(Scaling):
    def call(self, z, h):
        return FlowOutput(z, self.no_such_thing)


class Partial(Flow):
    Options = FlowOptions


class NoFlow:
    Options = FlowOptions


class NoOptions(Flow):
    def call(self, z, h):
        return FlowOutput(z, z)


class WrongOptions(NoOptions):
    Options = int
""",
    "likelihoods.py": """
from keras import ops

from vaedist import Likelihood
from vaedist.models.preprocessing import Binned, Threshold


class Partial(Likelihood):
    preprocessing = Binned()

    def log_prob(self, raw, x):
        return ops.sum(raw * x, axis=-1)


class Uniform(Partial):
    '''All 256 levels are as likely.'''

    def log_prob(self, raw, x):
        return ops.sum(0 * raw - 5.545177444479562 + 0 * x, axis=-1)

    def mean(self, raw):
        return 0 * raw + 0.5

    def sample(self, raw, uniform):
        return uniform


class Wrong(Uniform):
    '''Its probabilities add up to 2.'''

    def log_prob(self, raw, x):
        return ops.sum(0 * raw - 4.852030263919617 + 0 * x, axis=-1)


class Coin(Uniform):
    '''A distribution of pixels of 0 and 1, also without data.binarize.'''

    binary = True
    preprocessing = Threshold()

    def log_prob(self, raw, x):
        return -ops.sum(ops.softplus((1 - 2 * x) * raw), axis=-1)


class NoPixels(Uniform):
    preprocessing = "binned"


class NoOutputs(Uniform):
    outputs = 1.5


class Raising(Uniform):
    def __init__(self):
        raise ZeroDivisionError("no pixels")


class Faulty(Uniform):
    def log_prob(self, raw, x):
        return self.no_such_thing


class Unseen(Uniform):
    '''It scores images, but cannot compute any.'''

    def mean(self, raw):
        raise ZeroDivisionError("no mean")

    def sample(self, raw, uniform):
        raise ZeroDivisionError("no sample")


class NoLikelihood:
    preprocessing = Binned()
""",
}
NAME = "toys_of_test"
TOY = f"{NAME}.light:Toy"


def write(folder):
    """Writes the package into a folder."""
    package = folder / NAME
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    return folder
