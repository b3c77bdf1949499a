"""JAX's switches, which another library of the same process may set, break no part and change no dtype."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import jaxopt_input as joi
from jaxopt_input import images, networks, optimizers, projections, transforms
from jaxopt_input.networks import alexnet, googlenet, resnet, squeezenet, vgg

key = jax.random.key(0)

def float32(tree):
    assert {str(x.dtype) for x in jax.tree.leaves(tree)} == {"float32"}, jax.tree.map(lambda x: x.dtype, tree)

for name, parameterization in images.BY_NAME.items():
    p = parameterization.bind((67, 10, 3))  # 67 is prime: on a CPU by matrices
    theta = jax.eval_shape(lambda key: p.init(key, 2), key)
    float32((theta, jax.eval_shape(p.decode, theta), jax.eval_shape(p.project, theta)))
    float32(jax.eval_shape(jax.grad(lambda theta: p.decode(theta).sum()), theta))
    if name not in ("cppn", "maco"):
        float32(p.encode(np.full((2, 67, 10, 3), 0.3, np.float32)))
for transform in (*filter(None, transforms.BY_NAME.values()), transforms.noise(0.1), transforms.jitter(3)):
    views = jax.ShapeDtypeStruct((2, 20, 20, 3), jnp.float32)
    float32(jax.eval_shape(jax.vmap(transform), jax.eval_shape(lambda key: jax.random.split(key, 2), key), views))
gray = np.full((4, 4, 3), 0.5, np.float32)
balls = (projections.ball(norm, 0.1, gray) for norm in ("linf", "l2", "l1"))
for projection in (projections.box(), projections.sphere(1.0), projections.pixel_ball(0.2), *balls):
    float32(jax.eval_shape(projection, gray))
falling = optimizers.averaged(optimizers.adam(lambda step: 0.1 / (1 + step)))
yosinski = optimizers.yosinski(
    blur_sigma=1.0, decay=0.1, norm_percentile=20.0, contribution_percentile=20.0, desired_progress=1.0
)
for optimizer in (*map(optimizers.optimizer, optimizers.NAMES), yosinski, optimizers.mahendran(1e3), falling):
    rule = optimizer.build()
    float32(jax.eval_shape(lambda x: rule.update(x, rule.init(x), x)[0], gray))
for module in (alexnet.AlexNet(), vgg.VGG(16), googlenet.GoogLeNet(), resnet.ResNet(18), squeezenet.SqueezeNet("1.1")):
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, key, image)
    float32(jax.eval_shape(lambda params, image: module.apply(params, image), params, image))
    float32(jax.eval_shape(lambda p, x: jax.grad(lambda x: module.apply(p, x)["logits"].sum())(x), params, image))
float32(joi.load("tin100").activations(jnp.ones((1, 64, 64, 3), jnp.float32), ["logits"]))
print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["JAX_ENABLE_X64=1", "JAX_NUMPY_RANK_PROMOTION=raise"])
def test_parts_under_a_switch(switch):
    name, value = switch.split("=")
    environment = {**os.environ, name: value}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "fine", done.stderr[-2000:]
