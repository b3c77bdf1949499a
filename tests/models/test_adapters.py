"""Adapters for NNX, Equinox and Haiku with real modules of each, and Orbax checkpoints by name."""

import dataclasses
import functools
import subprocess
import sys
import textwrap

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from click.testing import CliRunner
from flax import nnx

import jaxopt_input as joi
from jaxopt_input.cli import main

SHAPE = (8, 10, 3)
LABELS = ("ant", "bee", "cat")
IMAGES = jax.random.uniform(jax.random.key(9), (2, *SHAPE))


class NNXBlock(nnx.Module):
    def __init__(self, width, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.norm(self.conv(self.conv(x)))))


class NNXNet(nnx.Module):
    """A list of blocks, a convolution used twice, and a layer inside a vmap."""

    def __init__(self, width=16, seed=0):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.blocks = nnx.List([NNXBlock(width, rngs) for _ in range(2)])
        self.each = nnx.Linear(width, width, rngs=rngs)
        self.a_head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.a_head(jax.vmap(self.each)(x.mean((1, 2))))


class EquinoxBlock(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout

    def __init__(self, width, key):
        self.conv = eqx.nn.Conv2d(width, width, 3, padding=1, key=key)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="ema")
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, state):
        x, state = self.norm(self.conv(self.conv(x)), state)
        return self.dropout(jax.nn.relu(x)), state


class EquinoxNet(eqx.Module):
    """Takes one image [C, H, W] and a state."""

    stem: eqx.nn.Conv2d
    blocks: list[EquinoxBlock]
    each: eqx.nn.Linear
    a_head: eqx.nn.Linear

    def __init__(self, width=16, seed=0):
        keys = jax.random.split(jax.random.key(seed), 5)
        self.stem = eqx.nn.Conv2d(3, width, 3, padding=1, key=keys[0])
        self.blocks = [EquinoxBlock(width, key) for key in keys[1:3]]
        self.each = eqx.nn.Linear(1, 1, key=keys[3])
        self.a_head = eqx.nn.Linear(width, 3, key=keys[4])

    def __call__(self, x, state):
        x = self.stem(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.a_head(jax.vmap(self.each)(x.mean((1, 2))[:, None])[:, 0]), state


class HaikuBlock(hk.Module):
    def __init__(self, width, name=None):
        super().__init__(name)
        self.conv = hk.Conv2D(width, 3, name="conv")
        self.norm = hk.BatchNorm(True, True, 0.9, name="norm")

    def __call__(self, x, is_training):
        x = jax.nn.relu(self.norm(self.conv(self.conv(x)), is_training))
        return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x


def haiku_net(x, is_training, width=16):
    x = hk.Conv2D(width, 3, name="stem")(x)
    for k in range(2):
        x = HaikuBlock(width, name=f"block{k}")(x, is_training)
    each = hk.Linear(width, name="each")
    each(x[:1].mean((1, 2)))  # outside of a transformation once, where its parameters are made: not one row an image
    return hk.Linear(3, name="a_head")(jax.vmap(each)(x.mean((1, 2))))


def nnx_model(**keywords):
    return joi.from_nnx(NNXNet(**keywords), image_shape=SHAPE, labels=LABELS)


def equinox_model(**keywords):
    module, state = eqx.nn.make_with_state(EquinoxNet)(**keywords)
    return joi.from_equinox(module, state, image_shape=SHAPE, labels=LABELS)


def haiku_variables(seed=0):
    return hk.transform_with_state(haiku_net).init(jax.random.key(seed), IMAGES, True)


def haiku_model(seed=0):
    return joi.from_haiku(haiku_net, *haiku_variables(seed), image_shape=SHAPE, labels=LABELS, is_training=False)


ADAPTERS = {"nnx": nnx_model, "equinox": equinox_model, "haiku": haiku_model}
BLOCK = {"nnx": "blocks/{}", "equinox": "blocks/{}", "haiku": "block{}"}
CHILD = {"nnx": "/", "equinox": "/", "haiku": "/~/"}


@functools.cache
def seed_0(library):
    return ADAPTERS[library](seed=0)


@pytest.fixture(params=ADAPTERS)
def library(request):
    return request.param


@pytest.mark.slow
def test_layers_by_path_in_order_of_depth(library):
    layers = seed_0(library).layers()
    blocks = [BLOCK[library].format(k) for k in range(2)]
    children = ["conv", "conv.1", "norm", *(["dropout"] if library != "haiku" else [])]
    inner = [name for b in blocks for name in (*(b + CHILD[library] + c for c in children), b)]
    if library == "haiku":  # Haiku normalizes through submodules of its own
        layers = {name: shape for name, shape in layers.items() if "_ema" not in name}
    expected = dict.fromkeys(["stem", *inner], (8, 10, 16)) | {"a_head": (3,), "logits": (3,)}
    assert list(layers.items()) == list(expected.items())


def test_outputs_are_those_of_the_module_in_inference_mode(library):
    model = seed_0(library)
    out = model.apply(model.params, IMAGES, ("stem", "logits"))
    assert list(out) == ["stem", "logits"]
    if library == "nnx":
        module = NNXNet()
        module.eval()
        stem, logits = module.stem(IMAGES), module(IMAGES)
    elif library == "equinox":
        module, state = eqx.nn.make_with_state(EquinoxNet)()
        module = eqx.nn.inference_mode(module)
        chw = jnp.moveaxis(IMAGES, -1, 1)
        stem = jnp.moveaxis(jax.vmap(module.stem)(chw), 1, -1)
        logits = jax.vmap(lambda x: module(x, state)[0])(chw)
    else:
        params, state = haiku_variables()
        logits, _ = hk.transform_with_state(haiku_net).apply(params, state, None, IMAGES, False)
        stem = hk.transform(lambda x: hk.Conv2D(16, 3, name="stem")(x)).apply(params, None, IMAGES)
    np.testing.assert_allclose(out["stem"], stem, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["logits"], logits, rtol=1e-5, atol=1e-5)


def test_flops_grow_with_depth(library):
    model = seed_0(library)

    def flops(tap):
        gradient = jax.grad(lambda x, params: (model.apply(params, x, (tap,))[tap] ** 2).sum())
        return jax.jit(gradient).lower(IMAGES, model.params).compile().cost_analysis()["flops"]

    first, second = (BLOCK[library].format(k) for k in range(2))
    assert flops("stem") < 0.3 * flops(first) < 0.7 * 0.3 * flops(second)


@pytest.mark.slow
def test_other_parameters_do_not_compile_again(library, compilations):
    def run(model):
        loss = -joi.losses.channel(BLOCK[library].format(1), 3)
        return joi.minimize(loss, model, steps=2, starts=2, key=jax.random.key(0))

    model = seed_0(library)
    if library == "equinox":  # the state of a stateful one is tied to the module it was made with
        arrays, state = model.params
        other = dataclasses.replace(model, params=(jax.tree.map(lambda x: 1.5 * x, arrays), state))
    else:
        other = ADAPTERS[library](seed=1)
    first = run(model)
    with compilations() as seen:
        second = run(other)
    assert seen.count == 0
    assert np.isfinite(first.loss).all()
    assert not np.array_equal(first.loss, second.loss)


@pytest.mark.slow
def test_models_built_alike_are_equal(library):
    build = ADAPTERS[library] if library != "equinox" else lambda: joi.from_equinox(EquinoxNamed(), image_shape=SHAPE)
    first, second = build(), build()
    assert first.apply == second.apply
    assert hash(first.apply) == hash(second.apply)
    assert first.apply != joi.from_nnx(NNXNet(width=8), image_shape=SHAPE).apply


def test_half_precision(library):
    model = seed_0(library)
    solution = joi.minimize(
        -joi.losses.class_logit(1),
        model,
        image=joi.images.pixels(),
        steps=2,
        key=jax.random.key(0),
        on=joi.Resources(dtype=jnp.bfloat16),
    )
    assert solution.best_image.dtype == jnp.float32
    assert np.isfinite(solution.loss).all()


class NNXNamed(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))

    def __call__(self, x):
        z = self.conv(x)
        return {"z": z, "a": z.mean((1, 2)), "logits": z.mean((1, 2))[:, :3]}


class EquinoxNamed(eqx.Module):
    conv: eqx.nn.Conv2d

    def __init__(self):
        self.conv = eqx.nn.Conv2d(3, 4, 3, padding=1, key=jax.random.key(0))

    def __call__(self, x):
        z = self.conv(x)
        return {"z": z, "a": z.mean((1, 2)), "logits": z.mean((1, 2))[:3]}


def haiku_named(x):
    z = hk.Conv2D(4, 3)(x)
    return {"z": z, "a": z.mean((1, 2)), "logits": z.mean((1, 2))[:, :3]}


def test_a_module_may_name_its_taps(library):
    if library == "nnx":
        model = joi.from_nnx(NNXNamed(), image_shape=SHAPE)
    elif library == "equinox":
        model = joi.from_equinox(EquinoxNamed(), image_shape=SHAPE)
    else:
        params = hk.transform(haiku_named).init(jax.random.key(0), IMAGES)
        model = joi.from_haiku(haiku_named, params, image_shape=SHAPE)
    assert list(model.layers().items()) == [("z", (8, 10, 4)), ("a", (4,)), ("logits", (3,))]


def test_the_module_given_stays_as_it_was():
    module = NNXNet()
    before = nnx.split(module)
    joi.from_nnx(module, image_shape=SHAPE)
    after = nnx.split(module)
    assert before[0] == after[0]
    assert type(module.stem) is nnx.Conv
    assert module.blocks[0].dropout.deterministic is False

    module, state = eqx.nn.make_with_state(EquinoxNet)()
    model = joi.from_equinox(module, state, image_shape=SHAPE)
    for _ in range(2):  # eager calls: a State is used up by one
        model.apply(model.params, IMAGES, ("logits",))
    assert module.blocks[0].dropout.inference is False
    assert type(module.stem) is eqx.nn.Conv2d


def test_equinox_module_of_batches_with_channels_last():
    class Mean(eqx.Module):
        weight: jax.Array

        def __call__(self, x, scale):
            return scale * jnp.mean(x, (1, 2)) @ self.weight

    module = Mean(jnp.eye(3))
    model = joi.from_equinox(module, image_shape=SHAPE, channels_first=False, batched=True, scale=2.0)
    out = model.apply(model.params, IMAGES, ("logits",))["logits"]
    np.testing.assert_allclose(out, 2 * IMAGES.mean((1, 2)), rtol=1e-6)


def test_equinox_layers_behind_jit_vmap_and_checkpoint():
    class Wrapped(eqx.Module):
        first: eqx.nn.Conv2d
        mlp: eqx.nn.MLP

        @eqx.filter_jit
        def features(self, x):
            return self.first(x)

        def __call__(self, x):
            return eqx.filter_checkpoint(self.mlp)(self.features(x).mean((1, 2)))

    a, b = jax.random.split(jax.random.key(0))
    module = Wrapped(eqx.nn.Conv2d(3, 4, 3, key=a), eqx.nn.MLP(4, 3, 8, 2, key=b))
    model = joi.from_equinox(module, image_shape=SHAPE)
    assert model.layers() == {"logits": (3,)}
    gradient = jax.grad(lambda x: model.apply(model.params, x, ("logits",))["logits"].sum())(IMAGES)
    assert np.isfinite(gradient).all()
    assert np.any(gradient)


@pytest.mark.parametrize("rng", [True, False])
@pytest.mark.parametrize("stateful", [True, False])
def test_every_form_of_haiku_transform(rng, stateful):
    def net(x):
        return hk.Linear(3)(hk.Conv2D(4, 3, data_format="NCHW")(x).mean((2, 3)))

    transformed = hk.transform_with_state(net) if stateful else hk.transform(net)
    images = jnp.moveaxis(IMAGES, -1, 1)
    init = transformed.init(jax.random.key(0), images)
    params, state = init if stateful else (init, None)
    transformed = transformed if rng else hk.without_apply_rng(transformed)
    model = joi.from_haiku(transformed, params, state, image_shape=SHAPE, channels_first=True)
    assert model.layers() == {"conv2_d": (8, 10, 4), "linear": (3,), "logits": (3,)}
    expected = hk.transform(net).apply(params, None, images)
    np.testing.assert_allclose(model.apply(model.params, IMAGES, ("logits",))["logits"], expected, rtol=1e-5, atol=1e-6)


def wrong_output(x):
    return x.mean((1, 2)), x


MISTAKES = {
    "nnx: no module": (lambda: joi.from_nnx(np.mean, image_shape=SHAPE), "from_nnx takes"),
    "nnx: a class": (lambda: joi.from_nnx(NNXNet, image_shape=SHAPE), "the class NNXNet"),
    "nnx: linen": (lambda: joi.from_nnx(nn.Dense(3), image_shape=SHAPE), "a Dense"),
    "nnx: channels": (lambda: joi.from_nnx(NNXNet(), image_shape=(8, 8, 4)), r"NNXNet .* \(8, 8, 4\)"),
    "nnx: labels": (lambda: joi.from_nnx(NNXNet(), image_shape=SHAPE, labels=("a",)), "1 labels"),
    "nnx: keyword": (lambda: joi.from_nnx(NNXNet(), image_shape=SHAPE, train=False), "train"),
    "nnx: shape": (lambda: joi.from_nnx(NNXNet(), image_shape=(8, 8)), "an image shape is"),
    "equinox: no module": (lambda: joi.from_equinox(np.mean, image_shape=SHAPE), "from_equinox takes"),
    "equinox: channels last": (
        lambda: joi.from_equinox(EquinoxNamed(), image_shape=SHAPE, channels_first=False),
        "EquinoxNamed",
    ),
    "equinox: state": (lambda: joi.from_equinox(EquinoxNet(), image_shape=SHAPE), "state"),
    "equinox: one image taken for many": (
        lambda: joi.from_equinox(
            eqx.nn.Lambda(lambda x: jnp.mean(x, (1, 2, 0))), image_shape=SHAPE, batched=True, channels_first=False
        ),
        "13 images",
    ),
    "haiku: no function": (lambda: joi.from_haiku("net", {}, image_shape=SHAPE), "a str"),
    "haiku: parameters": (lambda: joi.from_haiku(haiku_named, {}, image_shape=SHAPE), "conv2_d"),
    "haiku: mode": (lambda: joi.from_haiku(haiku_net, *haiku_variables(), image_shape=SHAPE), "is_training"),
    "haiku: key": (
        lambda: joi.from_haiku(haiku_net, *haiku_variables(), image_shape=SHAPE, is_training=True),
        "(?i)rng",
    ),
    "haiku: output": (lambda: joi.from_haiku(wrong_output, {}, image_shape=SHAPE), "tuple"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(mistake):
    function, hint = MISTAKES[mistake]
    with pytest.raises(joi.InputError, match=hint) as caught:
        function()
    assert "\n" not in str(caught.value)


def test_importing_the_package_imports_no_module_system():
    code = "import sys, jaxopt_input; print({'equinox', 'haiku', 'orbax', 'tensorflow', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Conv(4, (3, 3), name="early")(x)).mean((1, 2)))


LINEN_ENTRY = """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import jaxopt_input as joi

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.relu(nn.Conv(4, (3, 3), name="early")(x)).mean((1, 2)))

    def build():
        like = jax.eval_shape(Linen().init, jax.random.key(0), jnp.zeros((1, 8, 10, 3)))
        variables = joi.load_checkpoint({folder!r}, like)
        return joi.from_linen(Linen(), variables, image_shape=(8, 10, 3), labels=("ant", "bee", "cat"))
"""

NNX_ENTRY = """
    from flax import nnx
    import jax
    import jaxopt_input as joi

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.early = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.early(x)).mean((1, 2)))

    def build():
        graph, like = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
        net = nnx.merge(graph, joi.load_checkpoint({folder!r}, like))
        return joi.from_nnx(net, image_shape=(8, 10, 3), labels=("ant", "bee", "cat"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "entry"), [("linen", LINEN_ENTRY), ("nnx", NNX_ENTRY)])
def test_checkpoint_through_an_entry_by_name(tmp_path, monkeypatch, kind, entry):
    module = f"entry_of_{kind}"
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(entry).format(folder=str(tmp_path / "saved")))
    monkeypatch.syspath_prepend(tmp_path)
    if kind == "linen":
        saved = Linen().init(jax.random.key(5), IMAGES)
        expected = Linen().apply(saved, IMAGES)
    else:
        net = __import__(module).Net(nnx.Rngs(5))
        saved, expected = nnx.state(net), net(IMAGES)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", saved)
    model = joi.load(f"{module}:build")
    assert model.layers() == {"early": (8, 10, 4), "head": (3,), "logits": (3,)}
    found = model.apply(model.params, IMAGES, ("logits",))["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    arguments = ["visualize", "--model", f"{module}:build", "--target", "class:bee", "--steps", "2"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "run.json").is_file()


def test_checkpoint_of_a_manager(tmp_path):
    saved = {"w": jnp.arange(3.0), "step": jnp.int32(7)}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(0, args=ocp.args.StandardSave(saved))
        manager.wait_until_finished()
    found = joi.load_checkpoint(tmp_path / "0" / "default", {"w": np.zeros(3, np.float32), "step": 0})
    assert found["w"].tolist() == [0, 1, 2]
    assert found["step"] == 7


def test_checkpoint_mistakes(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", {"w": jnp.arange(3.0)})
    (tmp_path / "empty").mkdir()
    shape = jax.ShapeDtypeStruct
    for path, like, hint in [
        ("none", {"w": shape((3,), jnp.float32)}, "no checkpoint folder"),
        ("empty", {"w": shape((3,), jnp.float32)}, "cannot read"),
        ("saved", {"v": shape((3,), jnp.float32)}, "saved"),
        ("saved", {"w": shape((4,), jnp.float32)}, "shape"),
    ]:
        with pytest.raises(joi.InputError, match=hint) as caught:
            joi.load_checkpoint(tmp_path / path, like)
        assert "\n" not in str(caught.value)
