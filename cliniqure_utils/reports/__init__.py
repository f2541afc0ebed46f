"""Section 6.1: the structured prompt, and the report made of facts, prose and cited table text.

Facts come from the classifier and the detector and are written by a template; prose comes from the language model and
every sentence of it is checked against the facts; recommendations come from `data/knowledge.csv`, marked as such.
"""

from cliniqure_utils.reports.assembly import (
    KNOWLEDGE,
    ORIGINS,
    Verified,
    assemble_report,
    fact_sentences,
    facts_of,
    load_knowledge,
    recommendations,
    template_report,
)
from cliniqure_utils.reports.checking import (
    CONTRADICTION,
    HALLUCINATION,
    MARKS,
    NO_SUCH_PLACE,
    OMISSION,
    PROBLEMS,
    STATUSES,
    UNTOLD_SIDE,
    WRONG_SIDE,
    WRONG_SIZE,
    WRONG_ZONE,
    check_sentences,
    count_problems,
    omitted_findings,
)
from cliniqure_utils.reports.evidence import (
    FIELD_LIMIT,
    Evidence,
    age_in_words,
    clean_field,
    gather_evidence,
    place_in_words,
)
from cliniqure_utils.reports.prompt import INSTRUCTION, SYMPTOMS_LIMIT, build_prompt
from cliniqure_utils.reports.systems import FEWER_FILMS, SYSTEMS, report_system, texts_by_system
from cliniqure_utils.reports.verifying import REASONS, verify_texts

__all__ = [
    "CONTRADICTION",
    "Evidence",
    "FEWER_FILMS",
    "FIELD_LIMIT",
    "HALLUCINATION",
    "INSTRUCTION",
    "KNOWLEDGE",
    "MARKS",
    "NO_SUCH_PLACE",
    "OMISSION",
    "ORIGINS",
    "PROBLEMS",
    "REASONS",
    "STATUSES",
    "SYMPTOMS_LIMIT",
    "SYSTEMS",
    "UNTOLD_SIDE",
    "Verified",
    "WRONG_SIDE",
    "WRONG_SIZE",
    "WRONG_ZONE",
    "age_in_words",
    "assemble_report",
    "build_prompt",
    "check_sentences",
    "clean_field",
    "count_problems",
    "fact_sentences",
    "facts_of",
    "gather_evidence",
    "load_knowledge",
    "omitted_findings",
    "place_in_words",
    "recommendations",
    "report_system",
    "template_report",
    "texts_by_system",
    "verify_texts",
]
