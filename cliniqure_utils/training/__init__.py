"""One way of training the detector, the classifier, the report model and the language model."""

from cliniqure_utils.training.fitting import SCHEDULERS, fit, precision
from cliniqure_utils.training.trainer import NonFiniteLoss

__all__ = ["NonFiniteLoss", "SCHEDULERS", "fit", "precision"]
