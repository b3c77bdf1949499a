"""SSIM against the formula of the paper, window by window."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import jaxopt_input as joi

spec = importlib.util.spec_from_file_location("similarity", Path(__file__).parents[2] / "benchmarks/similarity.py")
similarity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(similarity)
ssim = similarity.ssim


def transcribed(a, b):
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g) / g.sum() ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
            cov = (w * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


def test_ssim():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(16, 14, 3))
    b = np.clip(a + 0.2 * rng.normal(size=a.shape), 0, 1)
    luma = np.array([0.299, 0.587, 0.114])
    assert ssim(a, b) == pytest.approx(transcribed(a @ luma, b @ luma), rel=1e-9)
    assert ssim(a[..., :1], b[..., :1]) == pytest.approx(transcribed(a[..., 0], b[..., 0]), rel=1e-9)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, 1 - a) < 0 < ssim(a, b) < 1


@pytest.mark.parametrize("shape", [(10, 16, 3), (16, 16, 2), (16, 16)])
def test_what_it_does_not_compare(shape):
    with pytest.raises(joi.InputError, match="SSIM"):
        ssim(np.zeros(shape), np.zeros(shape))
