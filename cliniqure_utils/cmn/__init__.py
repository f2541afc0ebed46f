"""R2GenCMN (paper section 4.3): a report written from a chest film by a transformer with a shared memory.

`load_r2gencmn` opens the published checkpoints, `load` and `save` ours; `preprocess` makes a film ready;
`model.generate` writes.
"""

from cliniqure_utils.cmn.checkpoint import BadCheckpoint, load, load_official_state, load_r2gencmn, save
from cliniqure_utils.cmn.decoding import Decoded, beam_search, greedy
from cliniqure_utils.cmn.model import CMNConfig, Explanation, LayerNorm, R2GenCMN, SharedMemory
from cliniqure_utils.cmn.patches import GRID, SIDE, PatchExtractor, TinyPatches, build_extractor, preprocess
from cliniqure_utils.cmn.tokenizer import DEFAULTS, Tokenizer, clean, to_prose

__all__ = [
    "BadCheckpoint",
    "CMNConfig",
    "DEFAULTS",
    "Decoded",
    "Explanation",
    "GRID",
    "LayerNorm",
    "PatchExtractor",
    "R2GenCMN",
    "SIDE",
    "SharedMemory",
    "TinyPatches",
    "Tokenizer",
    "beam_search",
    "build_extractor",
    "clean",
    "greedy",
    "load",
    "load_official_state",
    "load_r2gencmn",
    "preprocess",
    "save",
    "to_prose",
]
