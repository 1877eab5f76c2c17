"""Options that several models share."""

from typing import Literal

from pydantic import Field

from vaedist.config import ModelOptions
from vaedist.models.preprocessing import BINARIZE, PREPROCESSING, Preprocessing


class LikelihoodOptions(ModelOptions):
    """Base of the options of models with one of the likelihoods of `vaedist.models.likelihoods`."""

    likelihood: Literal["bernoulli", "continuous_bernoulli", "gaussian", "discretized_logistic"] = Field(
        default="bernoulli", description="Distribution of the pixels."
    )

    def preprocessing(self, binarize: str) -> Preprocessing:
        """Returns how pixels become the x that the likelihood is a distribution of.

        Raises:
            ValueError: pixels are binarised, for a likelihood that does not score binary pixels.
        """
        if binarize != "none" and self.likelihood != "bernoulli":
            raise ValueError(
                f"data.binarize = {binarize!r} makes pixels 0 or 1, which model.likelihood = 'bernoulli' scores, not "
                f"{self.likelihood!r}"
            )
        return BINARIZE[binarize] or PREPROCESSING[self.likelihood]
