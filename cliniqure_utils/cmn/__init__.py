"""R2GenCMN (paper section 4.3): a report written from a chest film by a transformer with a shared memory.

`load_r2gencmn` opens the published checkpoints, `load` and `save` ours; `preprocess` makes a film ready;
`model.generate` writes. `collate`, `LearningRates` and `ReportScores` go into `training.fit`; `pair_views` and
`describe_studies` are for models that read a frontal and a lateral film.
"""

from cliniqure_utils.cmn.checkpoint import BadCheckpoint, load, load_official_state, load_r2gencmn, save
from cliniqure_utils.cmn.decoding import Decoded, beam_search, greedy
from cliniqure_utils.cmn.folding import folded
from cliniqure_utils.cmn.learning import LearningRates, ReportScores, collate, write_reports
from cliniqure_utils.cmn.model import CMNConfig, Explanation, LayerNorm, R2GenCMN, SharedMemory
from cliniqure_utils.cmn.patches import GRID, SIDE, PatchExtractor, TinyPatches, build_extractor, preprocess
from cliniqure_utils.cmn.studies import (
    ReportDataset,
    describe_studies,
    model_input,
    pair_views,
    preprocess_study,
    read_views,
    views_of_files,
)
from cliniqure_utils.cmn.tokenizer import DEFAULTS, Tokenizer, clean, to_prose

__all__ = [
    "BadCheckpoint",
    "CMNConfig",
    "DEFAULTS",
    "Decoded",
    "Explanation",
    "GRID",
    "LayerNorm",
    "LearningRates",
    "PatchExtractor",
    "R2GenCMN",
    "ReportDataset",
    "ReportScores",
    "SIDE",
    "SharedMemory",
    "TinyPatches",
    "Tokenizer",
    "beam_search",
    "build_extractor",
    "clean",
    "collate",
    "describe_studies",
    "folded",
    "greedy",
    "load",
    "load_official_state",
    "load_r2gencmn",
    "model_input",
    "pair_views",
    "preprocess",
    "preprocess_study",
    "read_views",
    "save",
    "to_prose",
    "views_of_files",
    "write_reports",
]
