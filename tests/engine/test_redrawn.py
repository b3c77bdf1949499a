"""What the network sees is drawn anew at each step, for each start, and by nothing but the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_input as joi


def drawn(key, image):
    """A view that is one random number, whatever the image."""
    return 0 * image + jax.random.uniform(key)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [joi.optimizers.sgd(0.1), joi.optimizers.lbfgs()], ids=["rule", "line search"])
def test_the_view_is_redrawn_at_each_step_and_start(linear, optimizer):
    """The loss is the number that the view's key draws: no two of 3 starts x 7 evaluations agree."""
    run = lambda seed: joi.minimize(  # noqa: E731
        joi.losses.class_logit(1), linear, image=joi.images.pixels(), transform=drawn, optimizer=optimizer,
        steps=6, starts=3, key=jax.random.key(seed),
    )  # fmt: skip
    history = np.asarray(run(0).loss)
    assert history.shape == (3, 7)
    assert len(np.unique(history)) == history.size
    np.testing.assert_array_equal(run(0).loss, history)
    assert not np.isin(np.asarray(run(1).loss), history).any()


def test_the_image_elected_is_judged_without_the_transform(linear):
    """Under this transform the loss has nothing to do with the image; the best image is the best all the same."""
    blue = joi.minimize(
        -joi.losses.class_logit(2), linear, image=joi.images.pixels(sd=0.2), optimizer=joi.optimizers.sgd(1e-6),
        transform=lambda key, image: image * jax.random.rademacher(key, ()), steps=4, starts=2, key=jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_allclose(blue.best_loss, -jnp.mean(blue.best_image[..., 2], (1, 2)), rtol=1e-5)
