"""What a method of attack works on: one image per lane, and the network as functions of a batch of them.

A method is a function `(problem, numbers) -> Found`, traced once and compiled whole. It must treat each lane by itself
and leave lanes that are done as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_input.attacks import geometry
from jaxopt_input.attacks.objectives import Objective
from jaxopt_input.attacks.result import has_class
from jaxopt_input.losses.algebra import Loss
from jaxopt_input.transforms import Transform

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

    Images = Float[Array, "L H W C"]

DRAWS = 32  # of a random transform, at least, under which an image is judged

# The purposes of the keys of a lane. Those of the steps count upwards from 0.
RANDOM_TARGET = 2**31 - 2
START = 2**31 - 3
LAST_DRAW = 2**31 - 4  # the first under which an image is judged; they count downwards

NO_VALUE = jnp.inf  # in a history, where a lane was done before that step


class Lanes(NamedTuple):
    """One image under attack per row.

    Attributes:
        clean: `[L, H, W, C]` in [0, 1].
        label: `[L]` int32, the true class.
        target: `[L]` int32, the class that the image is to get; the label where there is none.
        epsilon: `[L]` float32, the largest distance; infinite for attacks without one.
        key: `[L]` keys: each a function of the caller's key, the image's content and the restart.
        logits: `[L, classes]` of the clean image, as `Problem.judged` has them.
        restart: `[L]` uint32, which of its image's restarts it is, the first 0.
        start: `[L, H, W, C]`, where to begin, or None.
    """

    clean: Images
    label: Int[Array, " L"]
    target: Int[Array, " L"]
    epsilon: Float[Array, " L"]
    key: Array
    logits: Float[Array, "L classes"]
    restart: UInt32[Array, " L"]
    start: Images | None


class Found(NamedTuple):
    """What a method returns.

    Attributes:
        image: `[L, H, W, C]`, its best.
        steps: its steps until the lane was done, `[L]` int32 or one number, as are the other counts.
        gradients: how often it differentiated the network (also to one logit).
        forwards: how often it ran the network without differentiating it.
        history: what it keeps of each step, `[L, …]` by name.
    """

    image: Images
    steps: Int[Array, " L"] | int = 0
    gradients: Int[Array, " L"] | int = 0
    forwards: Int[Array, " L"] | int = 0
    history: dict[str, jax.Array] = {}  # noqa: RUF012  (never mutated)


Numbers = Mapping[str, jax.Array]
Method = Callable[["Problem", Numbers], Found]
Taps = dict[str, jax.Array]


def no_objective(label: jax.Array, target: jax.Array) -> Loss:
    """In place of what a method maximizes, where it has none."""
    raise TypeError("this attack has no loss of its own: give `gradient` an objective")


def until_done(advance: Callable[[Any], Any], steps: int, carry: tuple[Any, ...]) -> Any:
    """`advance` on a carry (step, done, …), from step 0 until all lanes are done or so many steps were taken."""

    def unfinished(carry: tuple[Any, ...]) -> jax.Array:
        return (carry[0] < steps) & ~jnp.all(carry[1])

    return jax.lax.while_loop(unfinished, advance, (jnp.int32(0), *carry))


@dataclasses.dataclass(frozen=True)
class Problem:
    """Lanes, and the network under attack as functions of one image per lane.

    Attributes:
        lanes: a `Lanes`, most of whose fields are attributes of the problem as well.
        apply: images, taps → activations.
        criterion: logits `[classes]`, label, target → success.
        targeted: whether the lanes have targets.
        rounded: whether the network sees images rounded to 8 bits. The gradient passes through the rounding.
        norm: of the budget, or the one that is minimized.
        transform: what the network sees of an image, at random; None is the image itself.
        samples: how many draws of it losses, gradients and logits are the mean of.
        objective: (label, target) → the loss that the method maximizes.
        stop: whether a lane is done once it succeeds.
    """

    lanes: Lanes
    apply: Callable[[jax.Array, tuple[str, ...]], Taps]
    criterion: Callable[..., jax.Array]
    targeted: bool
    rounded: bool
    norm: str = "linf"
    transform: Transform | None = None
    samples: int = 1
    objective: Objective | Callable[[jax.Array, jax.Array], Loss] = no_objective
    stop: bool = True

    @property
    def clean(self) -> Images:
        return self.lanes.clean

    @property
    def label(self) -> Int[Array, " L"]:
        return self.lanes.label

    @property
    def target(self) -> Int[Array, " L"]:
        return self.lanes.target

    @property
    def epsilon(self) -> Float[Array, " L"]:
        return self.lanes.epsilon

    def keys(self, purpose: int | jax.Array) -> jax.Array:
        """`[L]` keys for a purpose or step of the method."""
        return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(self.lanes.key)

    def done(self) -> Bool[Array, " L"]:
        """`[L]`: whether the clean image is a success already."""
        return self.success(self.lanes.logits)

    def success(self, logits: Float[Array, "L classes"]) -> Bool[Array, " L"]:
        """`[L]`: whether these logits `[L, classes]` are a success; never where they have no largest one."""
        met = jax.vmap(self.criterion)(logits, self.label, self.target)
        return met & has_class(logits)

    def confirmed(self, images: Images, success: Bool[Array, " L"]) -> Bool[Array, " L"]:
        """`[L]`: which successes of these images are no luck: under a random transform, those `judged` confirms."""
        if self.transform is None:
            return success
        return jax.lax.cond(success.any(), lambda: success & self.success(self.judged(images)), lambda: success)

    def judged(self, images: Images) -> Float[Array, "L classes"]:
        """`[L, classes]` that decide on images: under a random transform, the mean over the same `DRAWS` draws."""
        if self.transform is None:
            return self.logits(images)
        draws = LAST_DRAW - jnp.arange(-(-DRAWS // self.samples), dtype=jnp.int32)
        return jax.lax.map(lambda draw: self.logits(images, draw), draws).mean(0)

    def logits(self, images: Images, draw: int | jax.Array = 0) -> Float[Array, "L classes"]:
        """`[L, classes]` of images; `draw` tells one step's random transforms from another's."""
        return self._mean(self._activations(images, ("logits",), draw)["logits"])

    def gradient(
        self,
        images: Images,
        objective: Objective | Callable[[jax.Array, jax.Array], Loss] | None = None,
        draw: int | jax.Array = 0,
    ) -> tuple[Float[Array, " L"], Images, Float[Array, "L classes"]]:
        """The value of each lane's loss, its gradient by the image, and the logits, in one pass.

        Args:
            images: `[L, H, W, C]`.
            objective: (label, target) → the loss; the method's if None.
            draw: as in `logits`.
        """
        objective = objective or self.objective
        taps = tuple(dict.fromkeys((*objective(jnp.int32(0), jnp.int32(0)).taps, "logits")))

        def total(images: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            activations = self._activations(images, taps, draw)
            label, target, image = (jnp.repeat(x, self.samples, 0) for x in (self.label, self.target, images))
            each = jax.vmap(lambda y, t, x, a: objective(y, t)(a, x))(label, target, image, activations)
            values = self._mean(each)
            return values.sum(), (values, self._mean(activations["logits"]))

        (_, (values, logits)), gradient = jax.value_and_grad(total, has_aux=True)(images)
        return values, gradient, logits

    def jacobian(
        self, images: Images, weights: Float[Array, "K L classes"], draw: int | jax.Array = 0
    ) -> tuple[Float[Array, "L classes"], Float[Array, "K L H W C"]]:
        """The logits, and the gradients of K weighted sums of them, one pass back each."""
        logits, pull = jax.vjp(lambda x: self.logits(x, draw), images)
        return logits, jax.lax.map(lambda weight: pull(weight)[0], weights)

    def distance(self, images: Images, p: str) -> Float[Array, " L"]:
        """`[L]`: how far images, as they are judged, are from the clean ones."""
        return geometry.norm(self.counted(images) - self.clean, p)

    def counted(self, images: Images) -> Images:
        """Images as they are judged: rounded to 8 bits within the ball where `rounded` says so."""
        return geometry.to_8bit(images, self.clean, self.epsilon, self.norm) if self.rounded else images

    def into_ball(self, images: Images, p: str) -> Images:
        """The nearest images within ε of the clean ones, then within [0, 1]."""
        return geometry.clip_to_ball(images, self.clean, self.epsilon, p)

    def _activations(self, images: jax.Array, taps: tuple[str, ...], draw: int | jax.Array) -> Taps:
        if self.rounded:
            images = images + jax.lax.stop_gradient(self.counted(images) - images)
        if self.transform is not None:
            images = jnp.repeat(images, self.samples, 0)
            drawn = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, draw), self.samples))(self.lanes.key)
            images = jax.vmap(self.transform)(drawn.reshape(-1), images)
        return {tap: a.astype(jnp.float32) for tap, a in self.apply(images, taps).items()}

    def _mean(self, values: jax.Array) -> jax.Array:
        """The mean over the draws of each lane."""
        if self.samples == 1:
            return values
        return values.reshape(-1, self.samples, *values.shape[1:]).mean(1)
