"""A small network with known properties, and the folder of real data."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxopt_input as joi

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What a program compiles to is kept for the other modules and processes of this run, and not among the user's.
    folder = tempfile.TemporaryDirectory(prefix="jaxopt-input-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

TAPS = ("first", "second", "logits")


def toy_apply(params, image, taps):
    def conv(x, w):
        return jax.nn.relu(
            jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    first = conv(image - 0.5, params["a"])
    second = conv(first, params["b"])
    out = {"first": first, "second": second, "logits": second.mean((1, 2)) @ params["c"]}
    return {tap: out[tap] for tap in taps}


def pytest_collection_modifyitems(items):
    """Tests against PyTorch are skipped where it, or torchvision, is not installed."""
    if all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        return
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="needs PyTorch: pip install -r tests/requirements-torch.txt"))


@pytest.fixture(scope="session")
def toy() -> joi.Model:
    """Two 3x3 convolutions and a linear head on 12x10 RGB; channel 7 of "second" is dead."""
    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {
        "a": 0.3 * jax.random.normal(a, (3, 3, 3, 8)),
        "b": 0.2 * jax.random.normal(b, (3, 3, 8, 8)).at[..., 7].set(0),
        "c": jax.random.normal(c, (8, 5)),
    }
    labels = ("ant", "bee", "polar bear", "dog", "eel")
    return joi.from_function(toy_apply, params, image_shape=(12, 10, 3), taps=TAPS, labels=labels, name="toy")


@pytest.fixture(scope="session")
def linear() -> joi.Model:
    """Logits that are the mean colors: the best image of class k is pure in color k."""
    return joi.from_function(
        lambda params, x, taps: {"logits": x.mean((1, 2)) @ params},
        jnp.eye(3),
        image_shape=(6, 6, 3),
        taps=("logits",),
        labels=("red", "green", "blue"),
    )


@pytest.fixture(scope="session")
def data_folder() -> Path:
    return Path(os.environ["JAXOPT_INPUT_DATA"])


class Compilations:
    """Counts XLA compilations inside a with block."""

    count = 0
    registered = False

    def __enter__(self):
        if not Compilations.registered:
            jax.monitoring.register_event_duration_secs_listener(Compilations.heard)
            Compilations.registered = True
        Compilations.count = 0
        return self

    @staticmethod
    def heard(event, *_, **__):
        Compilations.count += event.endswith("backend_compile_duration")

    def __exit__(self, *_):
        pass


@pytest.fixture(scope="session")
def compilations():
    return Compilations


@pytest.fixture(autouse=True, scope="module")
def compiled_programs():
    """Each module's compiled programs are let go: over a thousand of them exhaust a process's memory maps (XLA:CPU)."""
    yield
    jax.clear_caches()


TOY_NETS = """
import jax, jax.numpy as jnp, jaxopt_input as joi

def build():
    def apply(params, image, taps):
        first = jax.nn.relu(jax.lax.conv_general_dilated(
            image - 0.5, params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        out = {"first": first, "logits": first.mean((1, 2))}
        return {tap: out[tap] for tap in taps}
    params = jax.random.normal(jax.random.key(0), (3, 3, 3, 5)).at[..., 4].set(0)
    return joi.from_function(apply, params, image_shape=(16, 16, 3), taps=("first", "logits"), labels=tuple("abcde"))

def steep():
    def apply(params, image, taps):
        return {"logits": jnp.log(image.mean((1, 2)) - 0.5)}
    return joi.from_function(apply, 0.0, image_shape=(8, 8, 3), taps=("logits",), labels=tuple("abc"))

def cliff():
    def apply(params, image, taps):
        return {"logits": jnp.log(image.mean((1, 2)) - 0.49)}
    return joi.from_function(apply, 0.0, image_shape=(8, 8, 3), taps=("logits",), labels=tuple("abc"))
"""


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """(name, source) → an empty folder, made the working one, with a Python module of that name in it."""

    def write(name: str, source: str) -> Path:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, name, raising=False)
        return tmp_path

    return write


@pytest.fixture
def toy_nets(write_module) -> Path:
    """A folder with `toy_nets.py`: `build`, whose channel first:4 is dead; `cliff`, `steep`, not finite everywhere."""
    return write_module("toy_nets", TOY_NETS)
