"""R2GenCMN (paper section 4.3): a report written from a chest film by a transformer with a shared memory.

`load_r2gencmn` opens the published checkpoints, `load_pretrained` our stand-in for them, `load` and `save` a run's
model; `preprocess` makes a film the model's input; `model.generate` writes. `collate`, `LearningRates` and
`ReportScores` go into `training.fit`; `read_views` and `pair_views` are for models that read a frontal and a lateral
film.
"""

from cliniqure_utils.cmn.checkpoint import BadCheckpoint, load, load_pretrained, load_r2gencmn, save
from cliniqure_utils.cmn.config import CMNConfig
from cliniqure_utils.cmn.learning import LearningRates, ReportScores, collate, take_over_scaling, write_reports
from cliniqure_utils.cmn.model import R2GenCMN
from cliniqure_utils.cmn.patches import PatchExtractor, build_extractor, preprocess
from cliniqure_utils.cmn.studies import ReportDataset, model_input, pair_views, read_views
from cliniqure_utils.cmn.tokenizer import Tokenizer, to_prose

__all__ = [
    "BadCheckpoint",
    "CMNConfig",
    "LearningRates",
    "PatchExtractor",
    "R2GenCMN",
    "ReportDataset",
    "ReportScores",
    "Tokenizer",
    "build_extractor",
    "collate",
    "load",
    "load_pretrained",
    "load_r2gencmn",
    "model_input",
    "pair_views",
    "preprocess",
    "read_views",
    "save",
    "take_over_scaling",
    "to_prose",
    "write_reports",
]
