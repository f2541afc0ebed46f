"""A trunk made fast for looking only: batch normalisation folded into the convolutions, channels last in memory.

In eval mode batch normalisation is a scale and a shift per channel, so it can become part of the convolution before it:
the same function with a fifth fewer passes over the maps. Training needs the layers as they are, and so do
checkpoints; therefore a copy is folded and the trunk itself is left alone.
"""

import copy

import torch
from torch import nn

from cliniqure_utils.vision.fast import JoinedMaps

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
LINEAR = (nn.Conv2d, JoinedMaps)


def folded(trunk: nn.Module) -> nn.Module:
    """A copy of `trunk` for eval mode, with the same outputs up to rounding (about 1e-6 of the largest).

    Args:
        trunk: Any module. Folded are a convolution and the batch normalisation right after it in an nn.Sequential, and
            conv1 / bn1 to conv3 / bn3 of the residual blocks of torchvision and timm; what else there is stays.

    Returns:
        The copy, in eval mode, without gradients, weights in channels-last order. Later changes of `trunk` do not reach
        it.
    """
    with torch.no_grad():
        trunk = copy.deepcopy(trunk).eval().requires_grad_(False)
        for module in list(trunk.modules()):
            for first, second in _neighbours(module):
                conv, norm = module._modules.get(first), module._modules.get(second)
                # The very classes: a subclass may do something else besides. Statistics of the batch cannot be folded.
                if type(conv) in LINEAR and type(norm) in NORMS and norm.running_mean is not None:
                    _fold(conv, norm)
                    module._modules[second] = nn.Identity()
        return trunk.to(memory_format=torch.channels_last)


def version(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Changes when the tensor is replaced, moved or written into."""
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _neighbours(module: nn.Module) -> list[tuple[str, str]]:
    """Names of children of which the second is known to take the first's output and nothing else does."""
    from timm.models import resnet as timm
    from torchvision.models import resnet as torchvision

    if type(module) is nn.Sequential:
        names = list(module._modules)
        return list(zip(names, names[1:], strict=False))
    if type(module) in (torchvision.BasicBlock, torchvision.Bottleneck, timm.BasicBlock, timm.Bottleneck):
        return [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)]
    return []


def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    """conv then norm -> conv alone. Worked out in float64, so that only the last rounding differs."""
    scale = norm.running_var.double().add(norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    kind = conv.weight.dtype
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(kind), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(kind), requires_grad=False)
