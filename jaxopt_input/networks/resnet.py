"""ResNet-18, -34 and -50 in Flax Linen, for inference.

He et al. 2016, "Deep Residual Learning for Image Recognition" (https://arxiv.org/abs/1512.03385), in torchvision's
form: a bottleneck's stride is at its 3x3 convolution. Batch norms are folded into the convolutions.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from jaxopt_input.networks.layers import conv, dense, max_pool, normalize

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """One residual block, `[N, H, W, C]` to `[N, h, w, D]`; returns its convolutions before their ReLU, then itself.

    Two 3x3 convolutions of `width` channels; or, as a bottleneck, 1x1, 3x3 and 1x1, the last to four times `width`.
    Where stride or channels change, the shortcut is a 1x1 convolution.
    """

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        if self.bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            plan = [(self.width, 3, self.stride), (self.width, 3, 1)]
        convolutions: list[jax.Array] = []
        y = x
        for k, (features, size, stride) in enumerate(plan, start=1):
            convolutions.append(conv(f"conv{k}", y, features, size, stride))
            y = nn.relu(convolutions[-1])
        if self.stride > 1 or x.shape[-1] != plan[-1][0]:
            x = conv("downsample", x, plan[-1][0], 1, self.stride)
        return (*convolutions, nn.relu(convolutions[-1] + x))


class ResNet(nn.Module):
    """ResNet-18, -34 or -50: images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`, in order of depth.

    The taps are `conv1` (before its ReLU), `relu1`, `pool1`; of block 0 of stage 3 `layer3.0.conv1`, `layer3.0.conv2`,
    … (before their ReLU, and before the shortcut is added) and `layer3.0`; `layer3`, which is the last of its blocks;
    `pool5`, the average over positions, and `logits`. Any size of image; the colors are
    normalized by ImageNet's mean and standard deviation. Source: https://arxiv.org/abs/1512.03385.

    Attributes:
        depth: 18, 34 or 50.
        classes: the number of logits.

    Example:
        >>> import jax.numpy as jnp
        >>> image = jnp.zeros((1, 224, 224, 3))
        >>> taps = jax.eval_shape(lambda key: ResNet(18).init_with_output(key, image)[0], jax.random.key(0))
        >>> taps["layer3.0"].shape, taps["layer4"].shape
        ((1, 14, 14, 256), (1, 7, 7, 512))
    """

    depth: int = 50
    classes: int = 1000

    @nn.compact
    def __call__(self, image: jax.Array) -> dict[str, jax.Array]:
        if self.depth not in BLOCKS:
            raise ValueError(f"a ResNet has depth 18, 34 or 50, not {self.depth}")
        taps = {"conv1": conv("conv1", normalize(image), 64, 7, 2)}
        taps["relu1"] = nn.relu(taps["conv1"])
        x = taps["pool1"] = max_pool(taps["relu1"], 3, 2, padding=1)
        for stage, count in enumerate(BLOCKS[self.depth], start=1):
            for k in range(count):
                stride = 2 if stage > 1 and k == 0 else 1
                name = f"layer{stage}.{k}"
                *inner, x = Block(32 * 2**stage, stride, self.depth >= 50, name=name)(x)
                taps |= {f"{name}.conv{i}": value for i, value in enumerate(inner, start=1)}
                taps[name] = x
            taps[f"layer{stage}"] = x
        taps["pool5"] = x.mean((1, 2))
        taps["logits"] = dense("logits", taps["pool5"], self.classes)
        return taps


def torch_names(module: ResNet) -> dict[str, tuple[str, str | None]]:
    """Torchvision's (and timm's) names of every layer and of the batch norm that is folded into it.

    Example:
        >>> torch_names(ResNet(18))["layer2.0/downsample"]
        ('layer2.0.downsample.0', 'layer2.0.downsample.1')
    """
    names: dict[str, tuple[str, str | None]] = {"conv1": ("conv1", "bn1")}
    bottleneck = module.depth >= 50
    convolutions = range(1, 4 if bottleneck else 3)
    for stage, count in enumerate(BLOCKS[module.depth], start=1):
        for k in range(count):
            block = f"layer{stage}.{k}"
            names |= {f"{block}/conv{i}": (f"{block}.conv{i}", f"{block}.bn{i}") for i in convolutions}
            if k == 0 and (stage > 1 or bottleneck):
                names[f"{block}/downsample"] = f"{block}.downsample.0", f"{block}.downsample.1"
    return names | {"logits": ("fc", None)}
