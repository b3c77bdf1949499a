"""Fooling images by evolution: MAP-Elites, one elite per class, the whole population scored as one batch.

An encoding says what a genome is: the image itself, or a compositional pattern-producing network (CPPN) that paints it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input import checks
from jaxopt_input.attacks.examine import check_logits, transformed
from jaxopt_input.attacks.fooling import Fooling, some_classes
from jaxopt_input.engine.lanes import Resources, resources, where
from jaxopt_input.kernels.threefry import written_out
from jaxopt_input.models.model import Apply, Model, in_dtype

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int
    from numpy.typing import ArrayLike

    Image = Float[Array, "H W C"]

STRENGTH = 1.0  # η of the polynomial mutation: large changes of few pixels come farther than small ones of many
RATES = {"direct": 0.015, "cppn": 0.1}  # of mutation
HIDDEN = 20  # nodes that a CPPN may use besides its outputs
CONNECTED = 0.3  # of all connections, the share that a random one has
REWIRED = 0.2  # how often a connection comes or goes, or a node takes another function, for a weight that changes
WEIGHT = 0.5  # standard deviation of a weight's change
IDLE = 0.1  # an elite of probability p is a parent as often as 1 + IDLE − p says
FUNCTIONS = (jnp.sin, jax.nn.sigmoid, lambda t: jnp.exp(-jnp.square(t)), lambda t: t)
REPORTS = 20  # of progress
NONE = -1.0  # in place of a probability where there is no finite one: less than all


@dataclasses.dataclass(frozen=True)
class Direct:
    """The genome is the image; numbers change by polynomial mutation.

    As every encoding it makes random genomes, changes each part of one with a chance, and decodes one into an image.
    """

    shape: tuple[int, int, int]

    def init(self, key: jax.Array) -> Image:
        return jax.random.uniform(key, self.shape, jnp.float32)

    def mutate(self, key: jax.Array, genome: Image, rate: jax.Array) -> Image:
        chosen, drawn = jax.random.split(key)
        u = jax.random.uniform(drawn, self.shape, jnp.float32)
        power = 1 / (STRENGTH + 1)
        change = jnp.where(u < 0.5, (2 * u) ** power - 1, 1 - (2 * (1 - u)) ** power)
        return jnp.clip(genome + change * jax.random.bernoulli(chosen, rate, self.shape), 0.0, 1.0)

    def decode(self, genome: Image) -> Image:
        return genome


@dataclasses.dataclass(frozen=True)
class CPPN:
    """The genome is a network from a pixel's place to its color: weights, connections and functions of its nodes.

    Inputs are x, y, the distance from the center and a constant; a node takes sine, sigmoid, Gaussian or the identity
    of what it is connected to among the inputs and the nodes before it.
    """

    shape: tuple[int, int, int]

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        weights, functions, wires = jax.random.split(key, 3)
        nodes = HIDDEN + self.shape[2]
        return {
            "weight": jax.random.normal(weights, (nodes, 4 + nodes), jnp.float32),
            "connected": jax.random.bernoulli(wires, jnp.float32(CONNECTED), (nodes, 4 + nodes)),
            "function": jax.random.randint(functions, (nodes,), 0, len(FUNCTIONS), jnp.int32),
        }

    def mutate(self, key: jax.Array, genome: dict[str, jax.Array], rate: jax.Array) -> dict[str, jax.Array]:
        chosen, change, wire, which, function = jax.random.split(key, 5)
        shape = genome["weight"].shape
        moved = WEIGHT * jax.random.normal(change, shape, jnp.float32) * jax.random.bernoulli(chosen, rate, shape)
        other = jax.random.randint(function, shape[:1], 0, len(FUNCTIONS), jnp.int32)
        rewired = REWIRED * rate
        return {
            "weight": genome["weight"] + moved,
            "connected": genome["connected"] ^ jax.random.bernoulli(wire, rewired, shape),
            "function": jnp.where(jax.random.bernoulli(which, rewired, shape[:1]), other, genome["function"]),
        }

    def decode(self, genome: dict[str, jax.Array]) -> Image:
        height, width, colors = self.shape
        axes = (jnp.linspace(-1, 1, side, dtype=jnp.float32) for side in (height, width))
        y, x = jnp.meshgrid(*axes, indexing="ij")
        inputs = jnp.stack([x, y, jnp.hypot(x, y), jnp.ones_like(x)]).reshape(4, -1)
        nodes = HIDDEN + colors
        # Nodes that are computed later are still zero: their connections count for nothing.
        values = jnp.concatenate([3 * inputs, jnp.zeros((nodes, height * width), jnp.float32)])
        weights = genome["weight"] * genome["connected"]

        def node(k: jax.Array, values: jax.Array) -> jax.Array:
            return values.at[4 + k].set(jax.lax.switch(genome["function"][k], FUNCTIONS, weights[k] @ values))

        values = jax.lax.fori_loop(0, nodes, node, values)
        return jax.nn.sigmoid(2 * values[-colors:]).T.reshape(self.shape)


ENCODINGS: dict[str, type[Direct] | type[CPPN]] = {"direct": Direct, "cppn": CPPN}


def map_elites(
    key: jax.Array,
    model: Model,
    classes: ArrayLike | None = None,
    *,
    encoding: str = "direct",
    generations: int = 200,
    population: int = 1200,
    mutation_rate: ArrayLike | None = None,
    halve_every: int = 1000,
    on: Resources | None = None,
) -> Fooling:
    """Evolve, for every class at once, an image that a network is sure is of this class.

    Each generation mutates elites that are drawn at random, the more often the less sure the network is of them, and
    scores the children, rounded to 8 bits, for all classes: a child takes the place of every elite whose class it has
    more of.

    Args:
        key: a JAX key.
        model: the network.
        classes: one index, or several; all classes if None.
        encoding: "direct", pixels with polynomial mutation, or "cppn".
        generations: how many.
        population: children per generation, scored as one batch.
        mutation_rate: the chance of each number to change, above 0 and at most 1; of each pixel 0.015, and of each
            weight 0.1, if None.
        halve_every: so many generations until that chance is halved.
        on: the resources; the first device runs it all, and progress is called as (generations done, generations in
            all, 1 − mean probability) about 20 times.

    Raises:
        InputError: for classes that do not exist, arguments out of range, or probabilities as logits.

    Source:
        Nguyen, Yosinski & Clune, Deep Neural Networks are Easily Fooled (2015), section 2.3; Mouret & Clune (2015) for
        MAP-Elites. They draw parents evenly and change a tenth of the pixels, by less; their CPPNs grow without bound
        (NEAT), where here connections come and go among a fixed number of nodes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": 40 * x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(2, 2, 3), taps=("logits",))
        >>> fooling = joi.attacks.map_elites(jax.random.key(0), model, generations=20, population=16)
        >>> fooling.image.shape, bool((fooling.probability > 0.9).all())
        ((3, 2, 2, 3), True)
    """
    on, label = resources(on), some_classes(classes, model)
    kind = ENCODINGS[checks.one_of("encoding", encoding, tuple(ENCODINGS))]
    mutation_rate = RATES[encoding] if mutation_rate is None else mutation_rate
    generations, population = checks.count("generations", generations), checks.count("population", population)
    numbers = {
        "rate": checks.number("mutation_rate", mutation_rate, 0, 1, open_low=True),
        "halve_every": np.float32(checks.count("halve_every", halve_every)),
    }
    key = written_out(checks.typed_key(key))
    traced = transformed(model.params, key, numbers)
    if on.dtype != "float32":
        model = in_dtype(model, on.dtype)
    if not traced:
        check_logits(model)
    program = _Program(model.apply, kind(model.info.image_shape), generations, population)
    params = model.params if traced else jax.device_put(model.params, on.local[0])
    state = _begin(program, params, key, label)
    at, parts = 0, REPORTS if on.progress and not traced else 1
    for stop in sorted({generations * (k + 1) // parts for k in range(parts)} - {0}):
        state, at = _advance(program, params, key, label, numbers, state, np.array([at, stop], np.int32)), stop
        if on.progress and not traced:
            on.progress(stop, generations, 1 - float(np.maximum(np.asarray(state.history)[stop], 0).mean()))
    image, history = _painted(program, state.elites), state.history
    if not traced:
        image, history = jax.device_get((image, history))
    xp = jnp if traced else np
    history = xp.where(history == NONE, np.float32(np.nan), history)
    finite = xp.isfinite(history[-1])
    return Fooling(image, label, history[-1], history, population * (generations + 1), finite, xp.zeros_like(finite))


@dataclasses.dataclass(frozen=True)
class _Program:
    """All that is static."""

    apply: Apply
    encoding: Direct | CPPN
    generations: int
    population: int


class _State(NamedTuple):
    elites: Any  # one genome per class
    history: Float[Array, "generations classes"]  # the elites' probabilities, NONE before the first finite one


@functools.partial(jax.jit, static_argnames="program")
def _begin(program: _Program, params: Any, key: jax.Array, label: Int[Array, " classes"]) -> _State:
    """The best of a random population."""
    genomes = jax.vmap(program.encoding.init)(jax.random.split(jax.random.fold_in(key, 0), program.population))
    elites = jax.tree.map(lambda x: jnp.repeat(x[:1], len(label), 0), genomes)
    elites, best = _challenge(program, params, label, elites, jnp.full(len(label), NONE, jnp.float32), genomes)
    return _State(elites, jnp.zeros((program.generations + 1, len(label)), jnp.float32).at[0].set(best))


@functools.partial(jax.jit, static_argnames="program")
def _advance(
    program: _Program,
    params: Any,
    key: jax.Array,
    label: jax.Array,
    numbers: dict[str, jax.Array],
    state: _State,
    span: jax.Array,
) -> _State:
    """The generations after number span[0], up to number span[1]."""
    size = program.population

    def generation(i: jax.Array, state: _State) -> _State:
        elites, best = state.elites, state.history[i - 1]
        drawn, mutated = jax.random.split(jax.random.fold_in(key, i))
        parents = jax.random.categorical(drawn, jnp.log(1 + IDLE - jnp.maximum(best, 0)), shape=(size,))
        rate = numbers["rate"] * jnp.float32(0.5) ** jnp.floor((i - 1).astype(jnp.float32) / numbers["halve_every"])
        genomes = jax.tree.map(lambda x: x[parents], elites)
        mutate = jax.vmap(lambda k, genome: program.encoding.mutate(k, genome, rate))
        children = mutate(jax.random.split(mutated, size), genomes)
        elites, best = _challenge(program, params, label, elites, best, children)
        return _State(elites, state.history.at[i].set(best))

    return jax.lax.fori_loop(span[0] + 1, span[1] + 1, generation, state)


def _challenge(
    program: _Program, params: Any, label: jax.Array, elites: Any, best: jax.Array, genomes: Any
) -> tuple[Any, jax.Array]:
    """The elites, and their probabilities, after a batch of challengers."""
    logits = program.apply(params, _painted(program, genomes), ("logits",))["logits"].astype(jnp.float32)
    score = jax.nn.softmax(logits)[:, label]
    score = jnp.where(jnp.isfinite(score), score, NONE)  # a challenger that is not finite spoils no other's chance
    winner, mark = jnp.argmax(score, 0), jnp.max(score, 0)
    better = mark > best
    winners = jax.tree.map(lambda x: x[winner], genomes)
    return where(better, winners, elites), jnp.where(better, mark, best)


@functools.partial(jax.jit, static_argnames="program")
def _painted(program: _Program, genomes: Any) -> Float[Array, "L H W C"]:
    """The images of a batch of genomes, rounded to 8 bits; one after another, which fits a cache."""
    return jnp.floor(jax.lax.map(program.encoding.decode, genomes) * 255 + 0.5) / 255
