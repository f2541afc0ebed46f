"""Studies: which films belong to one report, and the items that training and writing take.

A radiologist writes one report per study, often from a frontal and a lateral film. IU X-Ray's models read both, the
frontal first; MIMIC-CXR's read one film.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cliniqure_utils.cmn.patches import SIDE, preprocess
from cliniqure_utils.cmn.tokenizer import Tokenizer
from cliniqure_utils.dicom import image_id_of, safe_name
from cliniqure_utils.vision.grey import check_grey

# DICOM's view positions (PS3.3, C.8.7.1.1.3) and the words of the tables that come with MIMIC-CXR and IU X-Ray. The
# first is the one wanted when a study has several.
FRONTAL = ("PA", "FRONTAL", "AP")
LATERAL = ("LATERAL", "LL", "RL", "LAT")

# Columns of a table of films: ours, MIMIC-CXR's metadata, Indiana's projections.
_LAYOUTS = (
    {"image_id": "image_id", "study_id": "study_id", "view": "view"},
    {"dicom_id": "image_id", "study_id": "study_id", "ViewPosition": "view"},
    {"filename": "image_id", "uid": "study_id", "projection": "view"},
)


def read_views(path: str | Path) -> pd.DataFrame:
    """Read which film belongs to which study, and from where it was taken.

    Args:
        path: CSV with columns image_id, study_id, view; or MIMIC-CXR's metadata (dicom_id, study_id, ViewPosition); or
            Indiana's projections (filename, uid, projection).

    Returns:
        image_id, study_id, view (text in capitals, "" where it is not known).

    Raises:
        FileNotFoundError, ValueError: The file is missing, or has none of the three layouts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} does not exist: expected a table of films with image_id, study_id, view")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path.name} is not a CSV table ({error})") from error
    for layout in _LAYOUTS:
        if set(layout) <= set(table.columns):
            views = table[list(layout)].rename(columns=layout)
            if "filename" in layout:
                views["image_id"] = views.image_id.map(image_id_of)
            return views.assign(view=views["view"].str.strip().str.upper())
    wanted = " or ".join(", ".join(layout) for layout in _LAYOUTS)
    raise ValueError(f"{path.name} has columns {', '.join(table.columns)}; expected {wanted}")


def pair_views(films: pd.DataFrame, missing: str = "reject") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the frontal and the lateral film of each study.

    Args:
        films: image_id, study_id, view, as `read_views` returns them.
        missing: What happens to a study without a lateral film: "reject", or "repeat" (the frontal stands in for it;
            the public code has no such rule).

    Returns:
        (studies, rejected). studies: study_id, frontal, lateral (image ids), sorted by study_id. rejected: study_id,
        image_id, reason; each film that no study uses is there.

    Raises:
        ValueError: Unknown rule, or a film that is named twice.
    """
    if missing not in ("reject", "repeat"):
        raise ValueError(f"unknown rule {missing!r} for a missing lateral film; expected reject or repeat")
    if films.image_id.duplicated().any():
        raise ValueError(f"film {films.image_id[films.image_id.duplicated()].iloc[0]} is named twice")
    studies, rejected = [], []
    nowhere = films.study_id.isna() | (films.study_id == "")
    rejected += [("", image_id, "the film names no study") for image_id in films.image_id[nowhere]]
    for study_id, group in films[~nowhere].sort_values("image_id").groupby("study_id", sort=True):
        chosen = {}
        for side, names in (("frontal", FRONTAL), ("lateral", LATERAL)):
            found = sorted(
                (names.index(v), i) for v, i in zip(group["view"], group.image_id, strict=True) if v in names
            )
            chosen[side] = found[0][1] if found else None
            rejected += [(study_id, i, f"{chosen[side]} is the {side} film of this study") for _, i in found[1:]]
        for view, image_id in zip(group["view"], group.image_id, strict=True):
            if view not in FRONTAL + LATERAL:
                reason = f"view {view} is neither frontal nor lateral" if view else "the view is not known"
                rejected.append((study_id, image_id, reason))
        if missing == "repeat" and chosen["lateral"] is None:
            chosen["lateral"] = chosen["frontal"]
        if None in chosen.values():
            lacking = " and no ".join(side for side, image_id in chosen.items() if image_id is None)
            left = [image_id for image_id in chosen.values() if image_id is not None]
            rejected += [(study_id, image_id, f"the study has no {lacking} film") for image_id in left]
        else:
            studies.append({"study_id": study_id, **chosen})
    return (
        pd.DataFrame(studies, columns=["study_id", "frontal", "lateral"]),
        pd.DataFrame(rejected, columns=["study_id", "image_id", "reason"]),
    )


def model_input(model, frontal: np.ndarray, lateral: np.ndarray | None = None) -> torch.Tensor:
    """One film, or a frontal and a lateral one, as a batch of one for `model.generate`.

    Args:
        model: R2GenCMN of one or two views; one of one view takes the frontal film only.
        frontal, lateral: As for `preprocess`. Without a lateral film the frontal stands in for it (the public code has
            no such rule; expect less of the report).

    Returns:
        (1, 3, side, side) or (1, 2, 3, side, side), side = `model.config.image_size`.
    """
    look = model.config.grey, model.config.image_size
    if model.config.n_views == 1:
        return preprocess(frontal, *look)[None]
    films = frontal, frontal if lateral is None else lateral
    return torch.stack([preprocess(film, *look) for film in films])[None]


class ReportDataset(torch.utils.data.Dataset):
    """Films and their reports, for training from pixels and for writing.

    An item is a dict: image_id, the report's name; images, normalised float32 (3, side, side), or (2, 3, side, side)
    for studies of two views; ids, int64 (L,): 0, words, 0; without reports there are no ids.

    Args:
        image_dir: Folder of `<image_id>.png`, dense tissue bright.
        films: Films to serve: image ids, or the table of `pair_views`.
        tokenizer: Makes ids of words.
        reports: Name (image id or study id) -> text. None: nothing to learn from.
        max_length: Most words of a report.
        grey, side: Grey scale of the films, and their side in pixels: the model's `config.grey`, `config.image_size`.

    Raises:
        ValueError: A film or study has no report or an empty one, no such grey scale, or an image id is no file name.
    """

    def __init__(
        self,
        image_dir: str | Path,
        films: Iterable[str] | pd.DataFrame,
        tokenizer: Tokenizer,
        reports: Mapping[str, str] | None = None,
        max_length: int = 100,
        grey: str = "none",
        side: int = SIDE,
    ):
        check_grey(grey)
        self.image_dir, self.grey, self.side = Path(image_dir), grey, side
        if isinstance(films, pd.DataFrame):
            self.names = films.study_id.astype(str).tolist()
            self.films = list(zip(films.frontal.astype(str), films.lateral.astype(str), strict=True))
        else:
            self.names = [str(name) for name in films]
            self.films = [(name,) for name in self.names]
        bad = next((name for views in self.films for name in views if not safe_name(name)), None)
        if bad is not None:
            raise ValueError(f"image id {bad!r} is no file name")
        self._ids = None
        if reports is not None:
            lacking = next((name for name in self.names if name not in reports), None)
            if lacking is not None:
                raise ValueError(f"{lacking} has no report to learn from")
            empty = next((name for name in self.names if not tokenizer.clean(reports[name]).strip(" .")), None)
            if empty is not None:
                raise ValueError(f"the report of {empty} is empty: nothing to learn from")
            self._ids = [torch.tensor(tokenizer.encode(reports[name], max_length + 1)) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """sha256 of what decides an item beside the films: their names, studies, look, ids of the reports."""
        ids = None if self._ids is None else [row.tolist() for row in self._ids]
        return hashlib.sha256(repr((self.names, self.films, self.grey, self.side, ids)).encode()).hexdigest()

    def __getitem__(self, index: int) -> dict:
        if isinstance(index, slice):  # a slice of names and films would pass for one study of many views
            raise TypeError("a ReportDataset gives one item at a time; for a part of it make one of their ids")
        views = []
        for image_id in self.films[index]:
            with Image.open(self.image_dir / f"{image_id}.png") as image:
                views.append(preprocess(np.asarray(image.convert("L")), self.grey, self.side))
        item = {"image_id": self.names[index], "images": views[0] if len(views) == 1 else torch.stack(views)}
        return item if self._ids is None else item | {"ids": self._ids[index]}
