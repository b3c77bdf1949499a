"""Our side of `speed.py`: one kind of work, prepared (compiled and run once), then timed on demand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from turns import serve

import jaxopt_input as joi
from jaxopt_input.networks import convert
from jaxopt_input.networks.vgg import VGG

RATE = 1e-3


def model_of(request: dict[str, Any]) -> joi.Model:
    """The network of the request: SqueezeNet with its weights, or a VGG with the random ones of `random_state`."""
    if request["model"] == "squeezenet":
        return joi.load("squeezenet")
    sys.path.insert(0, str(Path(__file__).parent))
    from peer_state import random_state

    name, shape = request["model"], (request["size"], request["size"], 3)
    params = jax.device_put(convert.convert(name, random_state(convert.expected_shapes(name))))
    return joi.from_linen(VGG(int(name.removeprefix("vgg"))), {"params": params}, image_shape=shape, name=name)


def images_of(request: dict[str, Any]) -> np.ndarray:
    with np.load(request["images"]) as file:
        return file["images"]


def gradient(request: dict[str, Any], shape: tuple[int, int, int] | None = None) -> tuple[Callable[[], Any], Any]:
    """Steps down the bare gradient of a class's logit, in a compiled loop; nothing else is in it."""
    model, x = model_of(request), jnp.asarray(images_of(request))
    if shape:
        x = jax.image.resize(x, (len(x), *shape), "linear")

    def total(params: Any, x: jax.Array) -> jax.Array:
        return -model.apply(params, x, ("logits",))["logits"][:, request["class"]].sum()

    @jax.jit
    def loop(params: Any, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, request["steps"], lambda _, x: x - RATE * jax.grad(total, 1)(params, x), x)

    value, slope = jax.jit(jax.value_and_grad(total, 1))(model.params, x)
    return lambda: loop(model.params, x), {"check": [float(value), float(jnp.linalg.norm(slope.ravel()))]}


def whole_loop(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """`minimize` of a class's logit: pixels without a transform, or Lucid's setting."""
    model, lucid = model_of(request), request["setting"] == "lucid"
    loss = -joi.losses.class_logit(request["class"])
    transform = joi.transforms.lucid() if lucid else None
    image = joi.images.fourier() if lucid else joi.images.pixels()

    def run() -> Any:
        return joi.minimize(
            loss,
            model,
            image=image,
            transform=transform,
            steps=request["steps"],
            starts=request["batch"],
            watch=joi.Watch(every=16),  # as in a run of the default 256 steps
            on=joi.Resources(chunk=request["batch"]),
            key=jax.random.key(0),
        ).image

    return run, {}


def bare(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """The bare gradient of what the network sees in `whole_loop`."""
    shape = joi.load(request["model"]).info.image_shape
    if request["setting"] == "lucid":
        key = jax.eval_shape(lambda: jax.random.key(0))
        shape = jax.eval_shape(joi.transforms.lucid(), key, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    return gradient(request, shape)


def visualization(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """One channel with Lucid's setting, as `joi.visualize` has it."""
    model, target = model_of(request), f"{request['layer']}:{request['channel']}"
    options = {"steps": request["steps"], "size": request["size"], "watch": joi.Watch(every=16)}
    return lambda: joi.visualize(model, target, key=jax.random.key(0), **options).image, {}


def attack(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """PGD or APGD on the classes that the network sees, never stopping early."""
    model, x = model_of(request), images_of(request)
    labels = np.asarray(model.activations(x, ["logits"])["logits"]).argmax(-1)
    method = {"pgd": joi.attacks.pgd, "apgd": joi.attacks.apgd}[request["work"]]
    options = {"step": request["step"]} if request["work"] == "pgd" else {}
    options |= {
        "epsilon": request["epsilon"],
        "steps": request["steps"],
        "stop": False,
        "on": joi.Resources(chunk=len(x)),
    }
    return lambda: method(jax.random.key(0), model, x, labels, **options).image, {}


def style(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """Gram matrices and content by Adam on pixels, from the content."""
    model, (content, painting) = model_of(request), images_of(request)

    def features(image: np.ndarray, layers: list[str]) -> dict[str, np.ndarray]:
        return {tap: np.asarray(map_[0]) for tap, map_ in model.activations(image[None], layers).items()}

    kept = features(content, [request["content"]])[request["content"]]
    loss = joi.losses.content(request["content"], kept)
    for layer, map_ in features(painting, request["styles"]).items():
        loss = loss + request["weight"] * joi.losses.gram(layer, map_)

    def run() -> Any:
        return joi.minimize(
            loss,
            model,
            image=joi.images.pixels(),
            optimizer=joi.optimizers.adam(0.02),
            initial=content,
            steps=request["steps"],
            key=jax.random.key(0),
        ).image

    return run, {}


def first_step(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """One step of a class image with the defaults, done when this returns."""
    target = f"class:{request['class']}"
    jax.block_until_ready(joi.visualize(model_of(request), target, steps=1).image)
    return lambda: None, {}


WORK = {
    "gradient": gradient,
    "loop": whole_loop,
    "bare": bare,
    "visualization": visualization,
    "pgd": attack,
    "apgd": attack,
    "style": style,
    "start": first_step,
}


def prepare(request: dict[str, Any]) -> tuple[Callable[[], float], dict[str, Any]]:
    run, told = WORK[request["work"]](request)

    def seconds() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - began

    if request["work"] != "start":
        seconds()
    return seconds, {**told, "version": f"jax {jax.__version__}", "device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    serve(prepare)
