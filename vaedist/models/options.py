"""Options that several models have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pydantic import Field, ValidationInfo, field_validator

from vaedist.config import ClassChoice, ModelOptions
from vaedist.config.class_choice import ClassNameError
from vaedist.config.class_options import classes_needed
from vaedist.models.preprocessing import BINARIZE, PREPROCESSING, Preprocessing
from vaedist.packages import REFERENCE
from vaedist.user_code import user_code

if TYPE_CHECKING:
    from vaedist.models.likelihoods import Likelihood

LIKELIHOODS = ClassChoice(
    noun="likelihood",
    key="model.likelihood",
    base="vaedist.models.likelihoods:Likelihood",
    public="vaedist.Likelihood",
    built_in={
        "bernoulli": "vaedist.models.likelihoods:Bernoulli",
        "continuous_bernoulli": "vaedist.models.likelihoods:ContinuousBernoulli",
        "gaussian": "vaedist.models.likelihoods:Gaussian",
        "discretized_logistic": "vaedist.models.likelihoods:DiscretizedLogistic",
    },
)
BINARY = ("bernoulli",)  # built-in likelihoods of binary pixels


def make_likelihood(name: str) -> "Likelihood":
    """Returns the likelihood with a name, which loads Keras.

    Raises:
        ClassNameError, UserCodeError: the likelihood is a user's and cannot be used, see `ClassChoice.load`.
    """
    kind = LIKELIHOODS.load(name)
    with user_code(f"{LIKELIHOODS.key} = {name!r}: the likelihood cannot be created"):
        made = kind()
        preprocessing, outputs = made.preprocessing, made.outputs
    if not isinstance(preprocessing, Preprocessing):
        reason = f"{kind.__qualname__}.preprocessing must be one of vaedist.models.preprocessing, such as Binned()"
        raise LIKELIHOODS.refusal(name, None, reason)
    if type(outputs) is not int or outputs < 1:
        reason = f"{kind.__qualname__}.outputs = {outputs!r}: must be the number of decoder outputs per pixel value"
        raise LIKELIHOODS.refusal(name, None, reason)
    return cast("Likelihood", made)


class LikelihoodOptions(ModelOptions):
    """Base class for the options of models with a `Likelihood`, which is built in or a user's own."""

    likelihood: str = Field(
        default="bernoulli",
        description=f"Distribution of the pixels: {', '.join(LIKELIHOODS.built_in)}, or your own class, written "
        "'package.module:Class'.",
    )

    @field_validator("likelihood")
    @classmethod
    def _a_likelihood(cls, name: str, info: ValidationInfo) -> str:
        if name not in LIKELIHOODS.built_in and (classes_needed(info) or not REFERENCE.fullmatch(name)):
            try:
                make_likelihood(name)
            except ClassNameError as error:
                raise ValueError(error.reason) from None
        return name

    def preprocessing(self, binarize: str) -> Preprocessing:
        """Returns the mapping of pixels to the x that the likelihood is a distribution of.

        Raises:
            ValueError: pixels are binarised, and the likelihood does not score binary pixels.
        """
        if self.likelihood in LIKELIHOODS.built_in:  # without Keras
            own, binary = PREPROCESSING[self.likelihood], self.likelihood in BINARY
        else:
            likelihood = make_likelihood(self.likelihood)
            own, binary = likelihood.preprocessing, likelihood.binary
        if binarize != "none" and not binary:
            raise ValueError(
                f"data.binarize = {binarize!r} makes pixels binary, which requires model.likelihood = 'bernoulli', "
                f"not {self.likelihood!r}"
            )
        return BINARIZE[binarize] or own


class FlowVAEOptions(LikelihoodOptions):
    """Base class for the options of each `FlowVAE`."""

    initial_log_sigma: float = Field(
        default=0.0,
        ge=-10.0,
        le=2.0,
        description="Logarithm of the standard deviation of z_0 before training, the same for all images and latents. "
        "Values below 0 suit latents that will hold much information, as with the likelihood discretized_logistic.",
    )


def check_divisible(image_shape: Sequence[int], factor: int, setting: str) -> None:
    """Checks that the height and width of images are divisible by a factor, on which a setting depends.

    Raises:
        ValueError: one of them is not.
    """
    height, width = image_shape[:2]
    if height % factor or width % factor:
        raise ValueError(
            f"{setting}: the height and width of the images must be divisible by {factor}, and they are "
            f"{height}x{width}"
        )
