"""Folding batch normalisation into the convolution before it, for a trunk that is not being trained.

In eval mode batch normalisation is a scale and a shift per channel, which the weights of the convolution can take over:
the same function with a fifth fewer passes over the maps. Training needs the layers as they are, and so do checkpoints;
therefore a copy is fused and the trunk itself is left alone.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cliniqure_utils.vision.fast import JoinedMaps

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv2d, JoinedMaps)


def fused(trunk: nn.Module) -> nn.Module:
    """A copy of `trunk` for eval mode, with the same outputs up to rounding (about 1e-6 of the largest).

    Args:
        trunk: Any module. Fused are a convolution and the batch normalisation right after it in an nn.Sequential, and
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
                # Exactly these classes: a subclass may do more. Statistics of the batch cannot be fused.
                if type(conv) in CONVOLUTIONS and type(norm) in NORMS and norm.running_mean is not None:
                    kind = conv.weight.dtype  # worked out in float64, so that only the last rounding differs
                    module._modules[first] = fuse_conv_bn_eval(conv.double(), norm.double()).to(kind)
                    module._modules[second] = nn.Identity()
        return trunk.to(memory_format=torch.channels_last)


def _neighbours(module: nn.Module) -> list[tuple[str, str]]:
    """Names of children of which the second is known to take the first's output and nothing else does."""
    from timm.models import resnet as timm
    from torchvision.models import resnet as torchvision

    # torch.fx would find them by tracing, but cannot follow JoinedMaps, whose coordinates depend on a map's size.
    if type(module) is nn.Sequential:
        names = list(module._modules)
        return list(zip(names, names[1:], strict=False))
    if type(module) in (torchvision.BasicBlock, torchvision.Bottleneck, timm.BasicBlock, timm.Bottleneck):
        return [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)]
    return []
