"""Rule labeller: which of the 14 findings a report states, denies or leaves open, and on which side. Works offline.

Three layers, all regular expressions over one sentence at a time: what is named (`terms`), what is said about it
(`triggers` for denial and doubt, each with a reach that ends at a clause border), and where (side words in the same
phrase). Meant for chest radiograph prose in English; it reads the sentence as written and knows no anatomy.

Source: ours, after the design of NegEx (Chapman et al. 2001, J Biomed Inform 34:301) and of the CheXpert labeller
(Irvin et al. 2019): mention, then classification by triggers with a limited reach. The word lists are our own.
"""

from cliniqure_utils.labeller.reading import (
    Mention,
    denies_the_unnamed,
    find_mentions,
    general_talk,
    label_matrix,
    overall_statement,
    split_sentences,
)
from cliniqure_utils.labeller.terms import ABSENT, PRESENT, UNCERTAIN

__all__ = [
    "ABSENT",
    "Mention",
    "PRESENT",
    "UNCERTAIN",
    "denies_the_unnamed",
    "find_mentions",
    "general_talk",
    "label_matrix",
    "overall_statement",
    "split_sentences",
]
