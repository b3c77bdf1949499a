"""Fooling images by evolution: MAP-Elites, one elite a class, the whole population scored as one batch.

An encoding says what a genome is: the image itself, or a compositional pattern-producing network (CPPN) that paints it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_input.attacks import checks
from jaxopt_input.errors import InputError
from jaxopt_input.model import Apply, Model

STRENGTH = 15.0  # η of the polynomial mutation
HIDDEN = 20  # nodes that a CPPN may use besides its outputs
REWIRED = 0.02  # the chance that a connection comes or goes, and that a node takes another function
WEIGHT = 0.5  # standard deviation of a weight's change


class Encoding(Protocol):
    """Genomes and what they denote; hashable."""

    def init(self, key: jax.Array) -> Any:
        """A random genome."""

    def mutate(self, key: jax.Array, genome: Any, rate: jax.Array) -> Any:
        """A genome, each part changed with this chance."""

    def decode(self, genome: Any) -> jax.Array:
        """The image `[H, W, C]` in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Direct:
    """The genome is the image; numbers change by polynomial mutation."""

    shape: tuple[int, int, int]

    def init(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, self.shape)

    def mutate(self, key: jax.Array, genome: jax.Array, rate: jax.Array) -> jax.Array:
        chosen, drawn = jax.random.split(key)
        u = jax.random.uniform(drawn, self.shape)
        power = 1 / (STRENGTH + 1)
        change = jnp.where(u < 0.5, (2 * u) ** power - 1, 1 - (2 * (1 - u)) ** power)
        return jnp.clip(genome + change * jax.random.bernoulli(chosen, rate, self.shape), 0.0, 1.0)

    def decode(self, genome: jax.Array) -> jax.Array:
        return genome


@dataclasses.dataclass(frozen=True)
class CPPN:
    """The genome is a network from a pixel's place to its colour: weights, connections and functions of its nodes.

    Inputs are x, y, the distance from the centre and a constant; a node takes sine, sigmoid, Gaussian or the identity
    of what it is connected to among the inputs and the nodes before it.
    """

    shape: tuple[int, int, int]

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        weights, functions = jax.random.split(key)
        nodes = HIDDEN + self.shape[2]
        to_inputs = jnp.arange(4 + nodes) < 4
        return {
            "weight": jax.random.normal(weights, (nodes, 4 + nodes)),
            "connected": jnp.broadcast_to(to_inputs, (nodes, 4 + nodes)),
            "function": jax.random.randint(functions, (nodes,), 0, 4),
        }

    def mutate(self, key: jax.Array, genome: dict[str, jax.Array], rate: jax.Array) -> dict[str, jax.Array]:
        chosen, change, wire, which, function = jax.random.split(key, 5)
        shape = genome["weight"].shape
        moved = WEIGHT * jax.random.normal(change, shape) * jax.random.bernoulli(chosen, rate, shape)
        other = jax.random.randint(function, shape[:1], 0, 4)
        return {
            "weight": genome["weight"] + moved,
            "connected": genome["connected"] ^ jax.random.bernoulli(wire, REWIRED, shape),
            "function": jnp.where(jax.random.bernoulli(which, REWIRED, shape[:1]), other, genome["function"]),
        }

    def decode(self, genome: dict[str, jax.Array]) -> jax.Array:
        height, width, colours = self.shape
        y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
        inputs = jnp.stack([x, y, jnp.hypot(x, y), jnp.ones_like(x)], -1).reshape(-1, 4)
        nodes = HIDDEN + colours
        values = jnp.concatenate([3 * inputs, jnp.zeros((len(inputs), nodes))], -1)
        # Nodes after the one computed are still zero: their connections count for nothing.
        weights = genome["weight"] * genome["connected"]

        def node(k: jax.Array, values: jax.Array) -> jax.Array:
            total = values @ weights[k]
            options = jnp.stack([jnp.sin(total), jax.nn.sigmoid(total), jnp.exp(-jnp.square(total)), total])
            return values.at[:, 4 + k].set(options[genome["function"][k]])

        values = jax.lax.fori_loop(0, nodes, node, values)
        return jax.nn.sigmoid(2 * values[:, -colours:]).reshape(self.shape)


ENCODINGS: dict[str, Any] = {"direct": Direct, "cppn": CPPN}


@dataclasses.dataclass(frozen=True)
class Elites:
    """What `map_elites` found.

    Attributes:
        image: `[classes, H, W, C]`, each class's elite, rounded to 8 bits as it was scored.
        probability: `[classes]`, that of its class.
        history: `[generations + 1, classes]`, the probabilities of the elites.
        evaluations: runs of the network on one image.
    """

    image: np.ndarray
    probability: np.ndarray
    history: np.ndarray
    evaluations: int


def map_elites(
    key: jax.Array,
    model: Model,
    *,
    encoding: str = "direct",
    generations: int = 200,
    population: int = 400,
    mutation_rate: float = 0.1,
    halve_every: int = 1000,
) -> Elites:
    """Evolve, for every class at once, an image that a network is sure is of this class.

    Each generation mutates elites that are drawn at random, and scores the children, rounded to 8 bits, for all
    classes: a child takes the place of every elite whose class it has more of.

    Args:
        key: a JAX key.
        model: the network.
        encoding: "direct", pixels with polynomial mutation, or "cppn".
        generations: how many.
        population: children a generation, scored as one batch.
        mutation_rate: the chance of each number to change, above 0 and at most 1.
        halve_every: so many generations until that chance is halved.

    Raises:
        InputError: for arguments out of range.

    Source:
        Nguyen, Yosinski & Clune, Deep Neural Networks are Easily Fooled (2015), section 2.3; Mouret & Clune (2015) for
        MAP-Elites. Their CPPNs grow without bound (NEAT); here connections come and go among a fixed number of nodes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": 40 * x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(2, 2, 3), taps=("logits",))
        >>> elites = joi.attacks.map_elites(jax.random.key(0), model, generations=20, population=16)
        >>> elites.image.shape, bool((elites.probability > 0.9).all())
        ((3, 2, 2, 3), True)
    """
    shape = model.info.image_shape
    logits = model.layers().get("logits")
    if logits is None or len(logits) != 1:
        raise InputError(f"{model.info.name} has no layer logits with one number a class")
    kind = ENCODINGS[checks.one_of("encoding", encoding, tuple(ENCODINGS))]
    generations, population = checks.count("generations", generations), checks.count("population", population)
    numbers = {
        "rate": checks.number("mutation_rate", mutation_rate, 0, 1, open_low=True),
        "halve_every": np.float32(checks.count("halve_every", halve_every)),
    }
    run = _Run(model.apply, kind(shape), generations, population, logits[0])
    image, history = jax.device_get(_evolve(run, model.params, checks.typed_key(key), numbers))
    return Elites(image, history[-1], history, population * (generations + 1))


@dataclasses.dataclass(frozen=True)
class _Run:
    """All that is static."""

    apply: Apply
    encoding: Encoding
    generations: int
    population: int
    classes: int


@functools.partial(jax.jit, static_argnames="run")
def _evolve(run: _Run, params: Any, key: jax.Array, numbers: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    encoding, size = run.encoding, run.population

    def seen(genomes: Any) -> jax.Array:
        return jnp.floor(jax.vmap(encoding.decode)(genomes) * 255 + 0.5) / 255

    def challenge(elites: Any, best: jax.Array, genomes: Any) -> tuple[Any, jax.Array]:
        """The elites after a batch of challengers."""
        score = jax.nn.softmax(run.apply(params, seen(genomes), ("logits",))["logits"].astype(jnp.float32))
        winner, mark = jnp.argmax(score, 0), jnp.max(score, 0)
        better = mark > best

        def choose(old: jax.Array, new: jax.Array) -> jax.Array:
            return jnp.where(better.reshape(-1, *[1] * (old.ndim - 1)), new[winner], old)

        return jax.tree.map(choose, elites, genomes), jnp.where(better, mark, best)

    first = jax.vmap(encoding.init)(jax.random.split(jax.random.fold_in(key, 0), size))
    elites = jax.tree.map(lambda x: jnp.repeat(x[:1], run.classes, 0), first)
    elites, best = challenge(elites, jnp.full(run.classes, -1.0), first)

    def generation(carry: tuple[Any, jax.Array], i: jax.Array) -> tuple[tuple[Any, jax.Array], jax.Array]:
        elites, best = carry
        drawn, mutated = jax.random.split(jax.random.fold_in(key, i))
        parents = jax.random.randint(drawn, (size,), 0, run.classes)
        rate = numbers["rate"] * 0.5 ** jnp.floor((i - 1) / numbers["halve_every"])
        genomes = jax.tree.map(lambda x: x[parents], elites)
        children = jax.vmap(lambda k, g: encoding.mutate(k, g, rate))(jax.random.split(mutated, size), genomes)
        elites, best = challenge(elites, best, children)
        return (elites, best), best

    (elites, _), history = jax.lax.scan(generation, (elites, best), jnp.arange(1, run.generations + 1))
    return seen(elites), jnp.concatenate([best[None], history])
