"""Words and their numbers, exactly as R2GenCMN numbers them.

Id 0 begins a report, ends it and pads it; ids 1 to V are the words in code-point order, "<unk>" among them. The two
cleaners are kept as the published checkpoints were trained with them, oddities included: "2.5 cm" becomes "25 cm",
"1. " disappears wherever it stands, and an empty sentence stays.

Source: Chen, Shen, Song, Wan, "Cross-modal Memory Networks for Radiology Report Generation", ACL-IJCNLP 2021, and the
behaviour of its public code.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cliniqure_utils.cmn.config import DATASETS
from cliniqure_utils.runs import write_json

UNKNOWN = "<unk>"
END = 0  # begin, end and padding

# What a cleaner does first, in this order: (text, replacement, passes). One pass of "__" -> "_" only halves a run of
# underscores, so the number of passes decides what a very long run leaves behind.
_OPENING = {
    "mimic_cxr": (("\n", " ", 1), ("__", "_", 7), ("  ", " ", 6), ("..", ".", 8)),
    "iu_xray": (("..", ".", 3),),
}
# Numbered lists. Only the numbers 1 to 5, and "1. " even inside "11. " or "L1. ".
_NUMBERING = (
    ("1. ", ""),
    *((f". {number}. ", ". ") for number in range(2, 6)),
    *((f" {number}. ", ". ") for number in range(2, 6)),
)
# Deleted before a sentence is stripped of blanks ('" a' becomes 'a'), and after (". a" keeps its blank). In the second
# set the run from ":" to "[" is a range of the published pattern, hence ; < = > ? @ but not the hyphen. (Upper case
# letters lie in that range too, but the text is lower case by then.)
_QUOTES = str.maketrans("", "", "\"/\\'")
_SIGNS = str.maketrans("", "", ".,?;*!%^&_+()" + ":;<=>?@[" + "]{}")


class Tokenizer:
    """Report text to ids and back.

    Args:
        words: The V words; sorted here, duplicates refused. "<unk>" must be among them.
        dataset: "mimic_cxr" or "iu_xray": which cleaner.

    Attributes:
        words: tuple of the V words; `words[i]` has id i + 1.
        dataset: As given.
        n_outputs: V + 1, the number of a model's outputs: the words, and id 0 for "the end".
    """

    def __init__(self, words: Iterable[str], dataset: str = "mimic_cxr"):
        if dataset not in DATASETS:
            raise ValueError(f"unknown data set {dataset!r}; expected one of {', '.join(DATASETS)}")
        words = sorted(words)  # Python compares text by code point, which is the order the ids need
        if len(set(words)) != len(words):
            raise ValueError("a vocabulary names a word twice")
        if UNKNOWN not in words:
            raise ValueError(f"a vocabulary must hold {UNKNOWN!r}")
        self.words = tuple(words)
        self.dataset = dataset
        self.n_outputs = len(words) + 1
        self._ids = {word: number for number, word in enumerate(words, start=1)}

    @classmethod
    def from_reports(cls, reports: Iterable[str], dataset: str = "mimic_cxr", threshold: int | None = None):
        """Vocabulary of training reports: words seen at least `threshold` times (default: the data set's)."""
        if dataset not in DATASETS:
            raise ValueError(f"unknown data set {dataset!r}; expected one of {', '.join(DATASETS)}")
        threshold = DATASETS[dataset].threshold if threshold is None else threshold
        counts = Counter(word for report in reports for word in clean(report, dataset).split())
        return cls({word for word, count in counts.items() if count >= threshold} | {UNKNOWN}, dataset)

    @classmethod
    def from_file(cls, path: str | Path, dataset: str = "mimic_cxr", threshold: int | None = None):
        """Read a vocabulary.

        Args:
            path: Our vocabulary.json, or the annotation.json of the reference project (words are counted in its
                "train" reports), or a plain JSON object word -> id.
            dataset, threshold: As in `from_reports`; our own file carries both, so they are not used for it.

        Raises:
            FileNotFoundError: With what to ask for, and where.
            ValueError: The file is none of the three.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.name} does not exist: an official checkpoint needs the annotation.json it was trained with "
                f"(MIMIC-CXR: credentialed PhysioNet users ask the R2GenCMN authors; IU X-Ray: in their data archive), "
                f"since the words' numbers come from it"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path.name} is not a JSON file ({error})") from error
        if isinstance(content, dict) and isinstance(content.get("train"), list):
            if not all(isinstance(item, dict) and isinstance(item.get("report"), str) for item in content["train"]):
                raise ValueError(f'{path.name}: every item of "train" must have a text "report"')
            if not content["train"]:
                raise ValueError(f'{path.name}: "train" is empty; the words are counted in its reports')
            return cls.from_reports((item["report"] for item in content["train"]), dataset, threshold)
        if isinstance(content, dict) and isinstance(content.get("words"), list):
            return cls(content["words"], content.get("dataset", dataset))
        if isinstance(content, dict) and content and all(type(number) is int for number in content.values()):
            tokenizer = cls(content, dataset)
            if tokenizer._ids != content:
                raise ValueError(f"{path.name}: ids must count 1, 2, ... in code-point order of the words")
            return tokenizer
        raise ValueError(
            f'{path.name} is no vocabulary: expected an annotation.json with a "train" list, or our vocabulary.json '
            f'with a "words" list'
        )

    def save(self, path: str | Path) -> None:
        """Write vocabulary.json, which `from_file` reads."""
        write_json(path, {"dataset": self.dataset, "words": list(self.words)})

    def __len__(self) -> int:
        """V, the number of words."""
        return len(self.words)

    def clean(self, text: str) -> str:
        """See `clean`."""
        return clean(text, self.dataset)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Text -> [0, ids of the cleaned words, 0], cut to `max_length` ids (a long report loses its end)."""
        unknown = self._ids[UNKNOWN]
        ids = [END, *(self._ids.get(word, unknown) for word in self.clean(text).split()), END]
        return ids[:max_length]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> words joined by blanks, up to the first 0."""
        words = []
        for number in map(int, ids):
            if number == END:
                break
            words.append(self.words[number - 1])
        return " ".join(words)


def clean(text: str, dataset: str = "mimic_cxr") -> str:
    """Clean a report: lower case, sentences joined by " . ", " ." at the end.

    >>> clean("1. Heart size normal. 2. A 2.5 cm nodule; follow-up.")
    'heart size normal . a 25 cm nodule follow-up .'
    """
    for old, new, passes in _OPENING[dataset]:
        for _ in range(passes):
            text = text.replace(old, new)
    for old, new in _NUMBERING:
        text = text.replace(old, new)
    sentences = text.strip().lower().split(". ")
    return " . ".join(sentence.translate(_QUOTES).strip().translate(_SIGNS) for sentence in sentences) + " ."


def to_prose(text: str) -> str:
    """Model output for people: "the heart is normal . no effusion ." -> "The heart is normal. No effusion."."""
    sentences = [sentence.strip() for sentence in text.split(" .")]
    return " ".join(sentence[:1].upper() + sentence[1:] + "." for sentence in sentences if sentence)
