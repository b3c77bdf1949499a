"""Colors of one image for another: mean and covariance, luminance, histogram."""

from __future__ import annotations

import numpy as np

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of YIQ, as of ITU-R BT.601


def match_moments(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """An image whose colors have the mean and covariance of another's, before it is clipped to [0, 1].

    x ↦ Σ̂^½ Σ^−½ (x − μ) + μ̂.

    Args:
        image, like: `[H, W, C]` in [0, 1], of any sizes.

    Source:
        Gatys et al., Preserving Color in Neural Artistic Style Transfer (2016), section 3, with the symmetric root
        (the "PCA" of their section 3.1).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a, b = rng.uniform(0.4, 0.6, (8, 8, 3)), rng.uniform(0.45, 0.55, (9, 9, 3))
        >>> bool(np.allclose(match_moments(a, b).mean((0, 1)), b.mean((0, 1)), atol=1e-6))
        True
    """
    flat, goal = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (image, like))
    mean = flat.mean(0)
    moved = (flat - mean) @ _power(_covariance(flat), -0.5) @ _power(_covariance(goal), 0.5) + goal.mean(0)
    return np.clip(moved, 0, 1).reshape(image.shape).astype(np.float32)


def _covariance(flat: np.ndarray) -> np.ndarray:
    centered = flat - flat.mean(0)
    return centered.T @ centered / len(flat)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-8) ** exponent) @ vectors.T


def luminance(image: np.ndarray) -> np.ndarray:
    """The luminance in each of the colors, `[H, W, C]`.

    Example:
        >>> luminance(np.array([[[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]])).tolist()
        [[[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]]]
    """
    weights = LUMINANCE if image.shape[-1] == 3 else np.full(image.shape[-1], 1 / image.shape[-1])
    return np.repeat((image @ weights)[..., None], image.shape[-1], -1).astype(np.float32)


def like_luminance(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The luminance of an image, with the mean and standard deviation of another's.

    Source:
        Gatys et al., Preserving Color in Neural Artistic Style Transfer (2016), section 4.

    Example:
        >>> image = np.linspace(0.4, 0.6, 12).reshape(2, 2, 3)
        >>> like = np.linspace(0.1, 0.5, 27).reshape(3, 3, 3)
        >>> bool(np.isclose(like_luminance(image, like).mean(), luminance(like).mean(), atol=1e-6))
        True
    """
    gray, goal = luminance(image), luminance(like)
    spread = goal.std() / max(float(gray.std()), 1e-6)
    return np.clip((gray - gray.mean()) * spread + goal.mean(), 0, 1).astype(np.float32)


def with_luminance(colors: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """The colors of one image with the luminance of another, `[H, W, C]`, clipped to [0, 1].

    Example:
        >>> with_luminance(np.full((1, 1, 3), 0.25), np.full((1, 1, 3), 0.75)).tolist()
        [[[0.75, 0.75, 0.75]]]
    """
    return np.clip(colors - luminance(colors) + luminance(lightness), 0, 1).astype(np.float32)


def match_histogram(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """An image whose every color has the histogram of another's: its values by rank, the other's quantiles.

    Source:
        Gatys et al., Texture Synthesis (2015), the last step of their code (DeepTextures).

    Example:
        >>> match_histogram(np.array([[[0.1], [0.3]]]), np.array([[[0.9], [0.5]]])).ravel().tolist()
        [0.5, 0.8999999761581421]
    """
    flat, goal = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (image, like))
    level = (np.arange(len(flat)) + 0.5) / len(flat)
    matched = np.empty(flat.shape, np.float32)
    for channel in range(flat.shape[1]):
        order = np.argsort(flat[:, channel], kind="stable")
        matched[order, channel] = np.quantile(goal[:, channel], level, method="hazen")
    return matched.reshape(image.shape)
