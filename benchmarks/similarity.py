"""How alike two images look: SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxopt_input.errors import InputError

WINDOW, SIGMA = 11, 1.5  # pixels
STABILIZERS = (0.01**2, 0.03**2)  # of images in [0, 1]
LUMA = (0.299, 0.587, 0.114)  # Rec. 601


def ssim(a: Any, b: Any) -> float:
    """The mean structural similarity of two images, 1 where they are the same: of their brightness, in float64.

    Args:
        a, b: `[H, W, C]` in [0, 1], C being 1 or 3, at least 11 pixels each way. Three colors count by their luma.

    Raises:
        InputError: for images of different or other shapes.

    Source:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), with their
        11 x 11 Gaussian window of standard deviation 1.5, where it lies inside the image.

    Example:
        >>> round(ssim(np.full((16, 16, 1), 0.5), np.full((16, 16, 1), 1.0)), 4)  # (2ab + c) / (a² + b² + c)
        0.8
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] not in (1, 3) or min(a.shape[:2]) < WINDOW:
        raise InputError(f"SSIM compares two images [H, W, 1 or 3] from {WINDOW} pixels, not {a.shape} and {b.shape}")
    a, b = (x[..., 0] if x.shape[2] == 1 else x @ np.array(LUMA) for x in (a, b))
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance_a, variance_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    c1, c2 = STABILIZERS
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def _windowed(plane: np.ndarray) -> np.ndarray:
    """The Gaussian-weighted mean of each window that lies inside."""
    weight = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    weight /= weight.sum()
    for axis in (0, 1):
        plane = np.lib.stride_tricks.sliding_window_view(plane, WINDOW, axis) @ weight
    return plane
