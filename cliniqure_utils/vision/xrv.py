"""A door to eyes that learnt from people: torchxrayvision's DenseNet-121 as a classifier of ours.

Its 18 outputs and VinDr-CXR's 14 findings overlap: `XRV_OUTPUTS` says what stands for what. A finding that it lacks is
NaN and named in `left_out`; it is never guessed.

Its published files are whole networks, pickled: opened the usual way, such a file may run any code. `_read_file` takes
the numbers out of it and lets nothing run.
"""

import contextlib
import io
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cliniqure_utils.project import MissingWeights
from cliniqure_utils.vocabulary import CLASSES, FINDINGS, NO_FINDING

PREFIX = "xrv:"
SIDE = 224  # pixels of its input
# Our finding -> its outputs; of two the larger counts. Its "Lung Lesion" and "Enlarged Cardiomediastinum" are wider
# than "Nodule/Mass" and "Aortic enlargement", and stand for neither. Source: ours.
XRV_OUTPUTS = {
    "Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Consolidation": ("Consolidation",),
    "Infiltration": ("Infiltration",),
    "Lung Opacity": ("Lung Opacity",),
    "Nodule/Mass": ("Nodule", "Mass"),
    "Pleural effusion": ("Effusion",),
    "Pleural thickening": ("Pleural_Thickening",),
    "Pneumothorax": ("Pneumothorax",),
    "Pulmonary fibrosis": ("Fibrosis",),
}


class XrvClassifier(nn.Module):
    """torchxrayvision's DenseNet with the interface of our classifiers, for asking, not for training.

    Args:
        network: `torchxrayvision.models.DenseNet` that answers with logits (n, 18).
        thresholds: (18,) operating points of its outputs; NaN where an output was not trained.

    Attributes:
        known: The names of CLASSES that it answers, in their order. left_out: the findings that it lacks.
        beside: Its trained outputs that are no finding of VinDr-CXR.
    """

    def __init__(self, network: nn.Module, thresholds: torch.Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("thresholds", thresholds)
        self._trained = ~thresholds.isnan()
        outputs = [name if trained else None for name, trained in zip(network.targets, self._trained, strict=True)]
        self._sources = {
            finding: [outputs.index(name) for name in names if name in outputs]
            for finding, names in XRV_OUTPUTS.items()
        }
        self.left_out = tuple(name for name in FINDINGS if not self._sources.get(name))
        self.known = tuple(name for name in CLASSES if name not in self.left_out)
        ours = {name for names in XRV_OUTPUTS.values() for name in names}
        self.beside = tuple(name for name in outputs if name is not None and name not in ours)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """image (n, 1, H, W) in [0, 1], cut to its central square -> logits (n, 15), NaN for findings left out, and
        others (n, m), probabilities of the outputs `beside`.

        Probabilities are torchxrayvision's: an output is rescaled so that 0.5 is the operating point of the weights.
        That of "No finding" is 1 - the largest of all trained outputs, those too that are no finding of VinDr-CXR: a
        broken rib is not "No finding".
        """
        from torchxrayvision.models import op_norm

        height, width = image.shape[-2:]
        side = min(height, width)
        top, left = height // 2 - side // 2, width // 2 - side // 2  # as torchxrayvision's XRayCenterCrop
        square = image[..., top : top + side, left : left + side]
        square = F.interpolate(square, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        probabilities = op_norm(self.network((2 * square - 1) * 1024).sigmoid(), self.thresholds)
        said = probabilities.logit(eps=1e-6)  # a sure network's 1 has no finite logit
        logits = torch.full((len(image), len(CLASSES)), math.nan, device=image.device)
        for finding, columns in self._sources.items():
            if columns:
                logits[:, CLASSES.index(finding)] = said[:, columns].amax(1)
        logits[:, CLASSES.index(NO_FINDING)] = -said[:, self._trained].amax(1)
        return {
            "logits": logits,
            "others": probabilities[:, [self.network.targets.index(name) for name in self.beside]],
        }

    @torch.no_grad()
    def ask(self, film: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
        """A film, uint8 (height, width), dense tissue bright -> probabilities of `known` and of `beside`, by name."""
        image = torch.from_numpy(film).to(self.thresholds.device)[None, None].float() / 255
        outputs = self(image)
        ours = dict(zip(CLASSES, outputs["logits"][0].sigmoid().tolist(), strict=True))
        others = dict(zip(self.beside, outputs["others"][0].tolist(), strict=True))
        return {name: ours[name] for name in self.known}, others


def load_xrv(weights: str) -> XrvClassifier:
    """The classifier in eval mode.

    Args:
        weights: "xrv:densenet121-res224-all" or another name of torchxrayvision's (...-nih, -pc, -chex, -rsna,
            -mimic_nb, -mimic_ch), downloaded by it unless its folder has the file; or "xrv:PATH", a file as it
            publishes them, or the saved `state_dict()` of such a network. A file under another name than the published
            one must hold `op_threshs`, the operating points; the state dict of a network that it loaded does.

    Raises:
        MissingWeights: No such name, no such file, no download, or a file of something else.
    """
    with warnings.catch_warnings():  # the package turns all warnings off where it is imported
        from torchxrayvision.models import DenseNet, get_weights, model_urls

    name = weights.removeprefix(PREFIX)
    published = {key: entry for key, entry in model_urls.items() if "resnet" not in key}
    if name == weights or not name:
        raise MissingWeights(f"expected xrv:NAME or xrv:PATH, found {weights!r}")
    if name in published:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints advice that the error gives, too
                path = Path(get_weights(name))
        except Exception as error:  # requests and the file system raise many types; each means the same to the user
            raise MissingWeights(
                f"the weights {name} are not on this machine and could not be downloaded ({type(error).__name__}); "
                f"fetch {published[name]['weights_url']} elsewhere and give the file as xrv:PATH"
            ) from error
    else:
        path = Path(name).expanduser()
        if not path.is_file():
            names = ", ".join(key for key in published if "-" in key)
            raise MissingWeights(f"{name} is no file, and no DenseNet of torchxrayvision, which has {names}")
    by_file = {entry["weights_url"].rsplit("/", 1)[-1]: entry["op_threshs"] for entry in published.values()}
    try:
        tensors = _read_file(path)
        thresholds = tensors.pop("op_threshs", None)
        if path.name in by_file:
            thresholds = torch.tensor(by_file[path.name])
        with torch.device("meta"):  # no weights that would be drawn, only to be replaced
            network = DenseNet()
        network.load_state_dict(tensors, assign=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise MissingWeights(
            f"{path} holds no DenseNet-121 of torchxrayvision ({type(error).__name__}); download it once more"
        ) from error
    if thresholds is None:
        raise MissingWeights(
            f"{path.name} does not hold the operating points (op_threshs): give the file its published name, or save "
            "the state_dict() of a network that torchxrayvision loaded"
        )
    return XrvClassifier(network.float(), thresholds.float()).eval().requires_grad_(False)


# What torch.save writes, read without anything that could run. Old files (torch before 1.6, as the published ones are)
# are pickles one after another, then the numbers; new ones are zip archives. torch.load with weights_only=True refuses
# the old kind as soon as it holds a whole network.
_DTYPES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "LongStorage": torch.int64}


class _Inert:
    """Stands for any object of the file, a layer or whatever it may be: it keeps its attributes and does nothing."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    """Makes dicts, sets and tensors; everything else that the file names becomes inert.

    `storages` has the numbers by their key: those of a zip archive, or room for those that come after the pickle.
    """

    def __init__(self, file, archive: zipfile.ZipFile | None = None, folder: str = ""):
        super().__init__(file)
        self.storages: dict[str, torch.Tensor] = {}
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str):
        made_here = {
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module in ("torch", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        return made_here.get((module, name), _Inert)

    def persistent_load(self, saved: tuple):
        if saved[0] == "module":  # a class, with its source
            return saved[1]
        _, dtype, key, _, count = saved[:5]
        if key not in self.storages:
            if self._archive is None:
                self.storages[key] = torch.empty(count, dtype=dtype)
            else:
                data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
                self.storages[key] = torch.frombuffer(data, dtype=dtype)
        return self.storages[key]


def _tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)


def _parameter(data: torch.Tensor, *_) -> torch.Tensor:
    return data


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor of a file that torch.save wrote: a network or its state dict, of either kind."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            folder = pickled.removesuffix("data.pkl")
            content = _Unpickler(io.BytesIO(archive.read(pickled)), archive, folder).load()
    else:
        with path.open("rb") as file:
            for _ in ("magic number", "version", "kind of machine"):
                _Unpickler(file).load()
            reader = _Unpickler(file)
            content = reader.load()
            for key in _Unpickler(file).load():
                storage = reader.storages[key]
                file.read(8)  # its length, which the pickle has told
                data = bytearray(file.read(storage.nbytes))
                storage.copy_(torch.frombuffer(data, dtype=storage.dtype, count=len(storage)))
    return dict(content) if isinstance(content, dict) else _tensors(content)


def _tensors(module: _Inert, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict of a network whose layers are inert."""
    own = {**module._parameters, **module._buffers}
    found = {prefix + name: value for name, value in own.items() if value is not None}
    for name, child in module._modules.items():
        found |= _tensors(child, f"{prefix}{name}.")
    return found
