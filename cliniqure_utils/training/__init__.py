"""One way of training the detector, the classifier, the report model and the language model: `fit` follows a `Plan`."""

from cliniqure_utils.training.fitting import fit
from cliniqure_utils.training.plan import Plan
from cliniqure_utils.training.trainer import NonFiniteLoss

__all__ = ["NonFiniteLoss", "Plan", "fit"]
