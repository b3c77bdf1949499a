"""Small convolutional networks that this project trains itself (`pretrained/train.py`)."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxopt_input.kernels.conv import linen_conv
from jaxopt_input.networks.layers import normalize


def space_to_depth(x: jax.Array) -> jax.Array:
    """Each 2x2 patch as channels: `[N, H, W, C] → [N, H//2, W//2, 4C]`; an odd last row or column falls off."""
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


def max_pool(x: jax.Array) -> jax.Array:
    """The 2x2 maximum with stride 2, as reshape and max: its gradient needs no scatter."""
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


class SmallNet(nn.Module):
    """A plain residual network: a stem, then stages of 3x3 convolutions, global average and dense layer.

    `conv1` works on 2x2 patches as channels, that is a 6x6 convolution of stride 2, or with `patch` 1 on pixels. Stage
    k (`block2`, `block3`, …) is `(width, residuals)`: a convolution to `width` channels, then `residuals` times
    `relu(x + conv(x))`; a 2x2 max pooling stands between stages. The network has no normalization, except while it is
    trained (`norm`); the training script folds it into the weights.

    Attributes:
      stem: channels of `conv1`.
      stages: `(width, residuals)` of every stage.
      classes: the number of logits.
      mean, std: those of the color channels, for an image in [0, 1].
      patch: side of the patches that `conv1` takes for pixels, 2 or 1.
      norm: batch norm after every convolution, for training only.
    """

    stem: int = 32
    stages: Sequence[tuple[int, int]] = ((32, 0), (96, 1), (192, 1), (288, 1))
    classes: int = 100
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.25, 0.25, 0.25)
    patch: int = 2
    norm: bool = False

    def __post_init__(self) -> None:
        # JSON gives lists; as tuples, equal networks hash alike.
        object.__setattr__(self, "stages", tuple((width, residuals) for width, residuals in self.stages))
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Maps images `[N, H, W, 3]` in [0, 1] to `{tap: activation}`: every stage after its ReLU, and the logits."""

        def conv(name: str, x: jax.Array, width: int) -> jax.Array:
            bias = not self.norm
            x = nn.Conv(width, (3, 3), use_bias=bias, conv_general_dilated=linen_conv, name=name)(x)
            if self.norm:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"{name}_norm")(x)
            return x

        x = normalize(image, self.mean, self.std)
        x = space_to_depth(x) if self.patch == 2 else x
        taps = {"conv1": nn.relu(conv("conv1", x, self.stem))}
        x = taps["conv1"]
        for index, (width, residuals) in enumerate(self.stages, start=2):
            if index > 2:
                x = max_pool(x)
            x = nn.relu(conv(f"block{index}_conv1", x, width))
            for k in range(residuals):
                x = nn.relu(x + conv(f"block{index}_conv{k + 2}", x, width))
            taps[f"block{index}"] = x
        taps["logits"] = nn.Dense(self.classes, name="logits")(x.mean((1, 2)))
        return taps
