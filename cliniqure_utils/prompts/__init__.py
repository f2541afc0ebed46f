"""Section 6.1: the structured prompt, and the report made of facts, prose and cited table text.

Facts come from the classifier and the detector and are written by a template; prose comes from the language model and
every sentence of it is checked against the facts; recommendations come from `data/knowledge.csv`, marked as such.
For teaching, not for clinical use.
"""

from .checking import (
    CONTRADICTION,
    HALLUCINATION,
    OMISSION,
    PROBLEMS,
    STATUSES,
    UNTOLD_SIDE,
    WRONG_SIDE,
    check_sentences,
    count_problems,
    omitted_findings,
)
from .evidence import MIDLINE, Evidence, clean_field, gather_evidence, place_in_words
from .pairs import indiana_pairs, rehearse_evidence, training_answer
from .prompt import INSTRUCTION, build_prompt
from .report import (
    DISCLAIMER,
    KNOWLEDGE,
    assemble_report,
    facts_of,
    load_knowledge,
    recommendations,
    template_report,
)

__all__ = [
    "CONTRADICTION",
    "DISCLAIMER",
    "Evidence",
    "HALLUCINATION",
    "INSTRUCTION",
    "KNOWLEDGE",
    "MIDLINE",
    "OMISSION",
    "PROBLEMS",
    "STATUSES",
    "UNTOLD_SIDE",
    "WRONG_SIDE",
    "assemble_report",
    "build_prompt",
    "check_sentences",
    "clean_field",
    "count_problems",
    "facts_of",
    "gather_evidence",
    "indiana_pairs",
    "load_knowledge",
    "omitted_findings",
    "place_in_words",
    "recommendations",
    "rehearse_evidence",
    "template_report",
    "training_answer",
]
