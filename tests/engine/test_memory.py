"""Memory: budgets that decide how much runs at once, buffers that are taken over, products without copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi
from jaxopt_input.engine import loop, memory
from jaxopt_input.methods.dream import recipe as dreaming
from jaxopt_input.methods.dream.settings import Settings, octave_shapes
from jaxopt_input.methods.exemplars.recipe import basis, rank

KEY = jax.random.key(0)


def budget(model, taps, shape, images, copies=2):
    """Bytes with which so many images fit and one more does not, by the estimate."""
    each = memory.image_bytes(model, taps, shape, shape, copies)
    return memory.estimate(model, taps, shape, copies) + (images - 1) * each + each // 2


@pytest.mark.slow
def test_attack_takes_as_many_lanes_as_fit(linear, toy):
    images = np.random.default_rng(0).random((5, 6, 6, 3), np.float32)
    labels = linear.activations(images, ["logits"])["logits"].argmax(-1)
    done = []
    options = {"epsilon": 0.1, "steps": 2}
    few = joi.Resources(memory=budget(linear, ("logits",), (6, 6, 3), 2), progress=lambda n, _: done.append(n))
    small = joi.attacks.pgd(KEY, linear, images, labels, on=few, **options)
    assert done == [2, 4, 5]
    np.testing.assert_allclose(small.image, joi.attacks.pgd(KEY, linear, images, labels, **options).image, atol=1e-6)
    none = joi.Resources(memory=1 << 20)
    with pytest.raises(joi.InputError, match="too little: one image at a time takes"):
        joi.attacks.pgd(KEY, linear, images, labels, on=none, **options)
    with pytest.raises(joi.InputError, match="a memory of 1 MiB"):
        joi.attacks.autoattack(KEY, toy, np.zeros((1, 12, 10, 3), np.float32), [0], epsilon=0.1, on=none)


def test_ranking_takes_as_many_images_as_fit(linear, tmp_path):
    for n in range(5):
        joi.data.save_png(tmp_path / f"{n}.png", np.full((6, 6, 3), n / 5))
    dataset, done = joi.data.load(str(tmp_path), linear), []

    def on(memory):
        return joi.Resources(memory=memory, progress=lambda n, _: done.append(n))

    few = budget(linear, ("logits",), (6, 6, 3), 2, 0)
    found = rank(linear, dataset, {"logits": basis(3)}, k=2, on=on(few))["logits"]
    assert done == [2, 4, 5]
    np.testing.assert_array_equal(found.largest.index[0], [4, 3])
    with pytest.raises(joi.InputError, match="too little"):
        rank(linear, dataset, {"logits": basis(3)}, k=2, on=on(1 << 20))


def test_dream_takes_smaller_tiles(toy, monkeypatch):
    monkeypatch.setattr(memory, "OWN", 0)  # which would hide what a toy takes
    s = Settings(octaves=1, overlap=8, tile=128, iterations=1)
    shapes, taps = octave_shapes(200, 160, s), ("second",)

    def taken(tile):
        extents = [dreaming.tiles.cut(side, tile, s.overlap).extent for side in shapes[0]]
        return memory.estimate(toy, taps, (*extents, 3)) + 16 * 4 * 3 * 200 * 160

    assert taken(128) > taken(64) > taken(32)
    for fits in (128, 64, 32):
        assert dreaming._tile_within(taken(fits), toy, taps, shapes, s) == fits
    with pytest.raises(joi.InputError, match="this dream takes"):
        dreaming._tile_within(taken(32) - 1, toy, taps, shapes, s)
    image = np.random.default_rng(0).random((200, 160, 3), np.float32)
    once = joi.dream(toy, image, "second", preset=s, on=joi.Resources(memory=taken(64)))
    assert once.octaves[0].evaluations == 4 * 3  # tiles of 64 in 200 and 160 pixels


def test_the_loop_takes_its_state_over(toy, monkeypatch):
    """What the compiled loop returns lies where its state lay: all of it, θ and optimizer and best θ."""
    seen = []
    advance = loop.advance

    def spy(program, params, trees, span, lanes, state):
        if not seen:
            compiled = advance.lower(program, params, trees, span, lanes, state).compile()
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            seen.append((size, compiled.memory_analysis().alias_size_in_bytes))
        return advance(program, params, trees, span, lanes, state)

    monkeypatch.setattr(loop, "advance", spy)
    loss, pixels = -joi.losses.class_logit(1), joi.images.pixels()
    joi.minimize(loss, toy, image=pixels, steps=4, starts=2, key=KEY)
    ((size, taken_over),) = seen
    assert taken_over == size > 0


@pytest.mark.parametrize("build", [joi.losses.gram, joi.losses.covariance])
def test_style_gradient_holds_one_copy_of_the_map(build):
    """Besides the map itself: 1.03 of it compiled here, 2.03 as JAX differentiates FᵀF by itself."""
    size, channels = 32, 64
    loss = build("a", np.zeros((4, 4, channels), np.float32))

    def total(maps):
        return jax.vmap(lambda one: loss({"a": one}, None))(jax.nn.relu(2 * maps)).sum()

    maps = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    compiled = jax.jit(jax.grad(total)).lower(maps).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * 4 * 2 * size**2 * channels


def test_a_containers_limit_counts(tmp_path):
    """The versions 1 and 2 of Linux's control groups; files that were read give way."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert memory._main_memory(proc, groups) == 8000 << 10
    (groups / "memory").mkdir(parents=True)
    for name, text in (("memory.max", "max"), ("memory.current", "5"), ("memory.stat", "inactive_file 3\n")):
        (groups / name).write_text(text)
    assert memory._main_memory(proc, groups) == 8000 << 10
    (groups / "memory.max").write_text("1000000")
    assert memory._main_memory(proc, groups) == 1000000 - 5 + 3
    for name, text in (("limit_in_bytes", "500"), ("usage_in_bytes", "200"), ("stat", "total_inactive_file 10\n")):
        (groups / "memory" / f"memory.{name}").write_text(text)
    assert memory._main_memory(proc, groups) == 500 - 200 + 10
    assert memory._main_memory(tmp_path / "nothing", groups) == 4 << 30


def test_the_peak_of_a_call():
    held = []
    rise = memory.peak_of(lambda: held.append(np.ones(1 << 24, np.float64).sum()), jax.local_devices()[0])
    # 128 MiB; meanwhile the process may take more or give back what it held.
    assert 0.9 * (1 << 27) < rise < 1.3 * (1 << 27)
    again = memory.peak_of(lambda: None, jax.local_devices()[0])
    assert again < 1 << 24  # the earlier peak is forgotten


@pytest.mark.parametrize("text", ["1e400", "0.0000001", "0", "4TB", "-1"])
def test_no_amount_of_memory(text):
    with pytest.raises(joi.InputError, match="is no amount of memory"):
        memory.parse_bytes(text)
