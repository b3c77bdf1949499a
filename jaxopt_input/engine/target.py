"""What an image is to excite, as text: "fire4:5", "class:dumbbell", "-fire4:5", "fire4:5+fire6:9", "fire4:5~fire6"."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxopt_input import losses
from jaxopt_input.checks import check_index
from jaxopt_input.errors import InputError, unknown
from jaxopt_input.losses import Loss
from jaxopt_input.losses.algebra import Shapes
from jaxopt_input.models.model import Model
from jaxopt_input.names import american


@dataclasses.dataclass(frozen=True)
class Target:
    """What an image is to excite.

    Attributes:
        kind: "class", "layer", "channel", "unit", or "field", a channel's unit on its receptive field alone.
        layer: the tap.
        index: of the class or channel; 0 for a layer.
        position: (row, column) of a unit, else ().
        weight: how much it counts; negative where it is to be excited the least.
    """

    kind: str
    layer: str
    index: int = 0
    position: tuple[int, ...] = ()
    weight: float = 1.0

    def __str__(self) -> str:
        sign = "-" * (self.weight < 0) + (f"{abs(self.weight):g}*".replace("e+", "e") if abs(self.weight) != 1 else "")
        if self.kind == "class":
            return f"{sign}class:{self.index}"
        if self.kind == "layer":
            return sign + self.layer
        where = f"@{self.position[0]},{self.position[1]}" if self.position else "@field" * (self.kind == "field")
        return f"{sign}{self.layer}:{self.index}{where}"

    @property
    def program(self) -> tuple[object, ...]:
        """What targets that share one compiled program have in common."""
        return self.kind, self.layer

    def central(self, shapes: Shapes) -> Target:
        """The unit at the map's center in place of a channel; other targets as they are.

        Example:
            >>> str(Target("channel", "a", 3).central({"a": (8, 6, 4)}))
            'a:3@4,3'
        """
        if self.kind != "channel" or len(shapes[self.layer]) != 3:
            return self
        height, width, _ = shapes[self.layer]
        return dataclasses.replace(self, kind="unit", position=(height // 2, width // 2))


@dataclasses.dataclass(frozen=True)
class Joint:
    """Several targets, excited at once: their weighted sum."""

    terms: tuple[Target, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.terms))

    @property
    def program(self) -> tuple[object, ...]:
        """What targets that share one compiled program have in common."""
        return "joint", *(term.program for term in self.terms)

    def central(self, shapes: Shapes) -> Joint:
        """The same with the units at the maps' centers in place of channels."""
        return Joint(tuple(term.central(shapes) for term in self.terms))


@dataclasses.dataclass(frozen=True)
class Between:
    """From one target to another across the starts."""

    first: Target | Joint
    second: Target | Joint

    def __str__(self) -> str:
        return f"{self.first}~{self.second}"

    @property
    def program(self) -> tuple[object, ...]:
        """What targets that share one compiled program have in common."""
        return "between", self.first.program, self.second.program

    def central(self, shapes: Shapes) -> Between:
        """The same with the units at the maps' centers in place of channels."""
        return Between(self.first.central(shapes), self.second.central(shapes))


Sum = Target | Joint
Wanted = Sum | Between


def parse(text: str, model: Model, image_shape: tuple[int, int, int] | None = None) -> list[Target]:
    """The targets that a text denotes, checked against a model.

    Args:
        text: "LAYER", "LAYER:CHANNEL", "LAYER:CHANNEL@center", "LAYER:CHANNEL@Y,X", "class:NAME", "class:INDEX" or
            "class:WNID"; "*" in place of a channel or class denotes all of them.
        model: whose layers and classes are meant.
        image_shape: of the image, which the map sizes depend on; the model's own if None.

    Raises:
        InputError: for a layer, channel, position or class that does not exist; the nearest names are offered.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(target) for target in parse("block3:7@center", joi.load("tin100"))]
        ['block3:7@8,8']
    """
    layer, colon, rest = text.strip().partition(":")
    shapes = model.layers(image_shape)
    if layer == "class" and colon:
        if "logits" not in shapes:
            raise InputError(f"{model.info.name} has no layer 'logits', which class targets need")
        classes = shapes["logits"][-1]
        if rest == "*":
            return [Target("class", "logits", index) for index in range(classes)]
        index = model.info.class_index(rest)
        check_index("class", index, classes, model.info.name)
        return [Target("class", "logits", index)]
    if layer not in shapes:
        raise unknown("layer", layer, [*shapes, "class"], "classes are written class:NAME")
    if not colon:
        return [Target("layer", layer)]
    shape = shapes[layer]
    channel, at, where = rest.partition("@")
    if channel != "*" and not channel.isdigit():
        raise InputError(f"in target {text!r}, {channel!r} is no channel: give 0 to {shape[-1] - 1}, or *")
    if channel != "*":
        check_index("channel", int(channel), shape[-1], f"layer {layer}")
    position = _position(where, shape, text) if at else ()
    channels = range(shape[-1]) if channel == "*" else [int(channel)]
    return [Target("unit" if at else "channel", layer, index, position) for index in channels]


def _position(where: str, shape: tuple[int, ...], text: str) -> tuple[int, ...]:
    if len(shape) != 3:
        raise InputError(f"in target {text!r}, the layer has no positions: leave {'@' + where!r} out")
    height, width, _ = shape
    if american(where) == "center":
        return height // 2, width // 2
    numbers = where.split(",")
    if len(numbers) != 2 or not all(n.strip().isdigit() for n in numbers):
        raise InputError(f"in target {text!r}, a position is @center or @ROW,COLUMN")
    row, column = map(int, numbers)
    if row >= height or column >= width:
        raise InputError(f"in target {text!r}, the position is outside the map of {height} rows and {width} columns")
    return row, column


def expand(text: str, model: Model, image_shape: tuple[int, int, int] | None = None) -> list[Wanted]:
    """The targets that a text denotes, with what combines them.

    Args:
        text: as in `parse`; "-TARGET" for what excites it the least, "0.5*TARGET" to weigh it, "A+B" for several at
            once, "A~B" for the way from one to another across the starts. "*" multiplies out.
        model, image_shape: as in `parse`.

    Raises:
        InputError: as `parse`.

    Example:
        >>> import jaxopt_input as joi
        >>> [str(target) for target in expand("block3:7+-2*class:dumbbell", joi.load("tin100"))]
        ['block3:7+-2*class:60']
    """
    ends = [_sums(end, model, image_shape) for end in text.split("~")]
    if len(ends) > 2:
        raise InputError(f"in target {text!r}, one ~ leads from one target to another")
    if len(ends) == 1:
        return list(ends[0])
    return [Between(first, second) for first in ends[0] for second in ends[1]]


_TERM = re.compile(r"\s*(-?)\s*(?:((?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\*)?(.*)", re.DOTALL)  # sign, weight, target


def _sums(text: str, model: Model, image_shape: tuple[int, int, int] | None) -> list[Sum]:
    terms = []
    for part in text.split("+"):
        minus, weight, plain = _TERM.fullmatch(part).groups()  # type: ignore[union-attr]
        number, star, layer = plain.partition(":")[0].rpartition("*")
        if star:
            raise InputError(f"in target {text!r}, a weight is a positive number, as in 0.5*{layer}, not {number!r}")
        factor = (-1.0 if minus else 1.0) * float(weight or 1)
        if factor == 0:
            raise InputError(f"in target {text!r}, a weight of 0 leaves nothing to excite")
        terms.append([dataclasses.replace(target, weight=factor) for target in parse(plain, model, image_shape)])
    if len(terms) == 1:
        return list(terms[0])
    return [Joint(combination) for combination in itertools.product(*terms)]


def label(target: Wanted | str, model: Model) -> str | None:
    """The labels of the classes in a target, or None where it has none.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.load("tin100")
        >>> label(expand("-class:60+block3:5", model)[0], model)
        'dumbbell'
    """
    texts = [model.info.label(single.index) for single in singles(target) if single.kind == "class"]
    return ", ".join(text for text in texts if text) or None


def singles(target: Wanted | str) -> tuple[Target, ...]:
    """The single targets of which a target is made; none of a name, which is no parsed value."""
    if isinstance(target, Target):
        return (target,)
    if isinstance(target, Joint):
        return target.terms
    return singles(target.first) + singles(target.second) if isinstance(target, Between) else ()


def to_data(target: Wanted | str) -> Any:
    """A target as what JSON can hold; `from_data` makes it a target again.

    Example:
        >>> from_data(to_data(Joint((Target("layer", "a"), Target("class", "logits", 3))))).terms[1].index
        3
    """
    if isinstance(target, Target):
        return dataclasses.asdict(target)
    if isinstance(target, Joint):
        return [to_data(term) for term in target.terms]
    return {"first": to_data(target.first), "second": to_data(target.second)} if isinstance(target, Between) else target


def from_data(data: Any) -> Any:
    """The target of which `to_data` made this."""
    if isinstance(data, list):
        return Joint(tuple(map(from_data, data)))
    if isinstance(data, dict) and "first" in data:
        return Between(from_data(data["first"]), from_data(data["second"]))
    return Target(**{**data, "position": tuple(data["position"])}) if isinstance(data, dict) else data


def _class(index: np.ndarray, kind: str) -> Loss:
    if kind == "default":
        return losses.class_logit(index) + losses.class_log_probability(index)
    return CLASS_OBJECTIVES[kind](index)


CLASS_OBJECTIVES = {
    "logit": losses.class_logit,
    "log-probability": losses.class_log_probability,
    "probability": losses.class_probability,
}


def objective(targets: Sequence[Wanted], kind: str = "default", like: Mapping[str, Any] | None = None) -> Loss:
    """The loss of targets of one program, one target axis: the negative of what is to be excited.

    Args:
        targets: whose `program` is the same.
        kind: of a class: "logit" (Simonyan 2014), "probability", "log-probability", or "default", the logit plus the
            log-probability: nothing is added as long as the class is the most probable one, and a push away from a
            sibling that answers to the same picture (husky and malamute) where it is not.
        like: the activations `{layer: [H, W, C]}` of an image, whose caricature layers make in place of their square.

    Raises:
        InputError: for an unknown kind.

    Example:
        >>> objective([Target("channel", "block3", 5), Target("channel", "block3", 7)]).taps
        ('block3',)
    """
    if kind != "default" and kind not in CLASS_OBJECTIVES:
        raise unknown("objective", kind, ["default", *CLASS_OBJECTIVES])
    first = targets[0]
    if isinstance(first, Between):
        ends = [[getattr(target, end) for target in targets] for end in ("first", "second")]
        return losses.interpolation(*(objective(end, kind, like) for end in ends))
    if isinstance(first, Joint):
        columns = zip(*(target.terms for target in targets), strict=True)  # type: ignore[union-attr]
        return sum((objective(column, kind, like) for column in columns), 0)  # type: ignore[return-value]
    single: Sequence[Target] = targets  # type: ignore[assignment]
    index = np.array([target.index for target in single], np.int32)
    if first.kind == "class":
        excited = _class(index, kind)
    elif first.kind == "channel":
        excited = losses.channel(first.layer, index)
    elif first.kind == "unit":
        excited = losses.unit(first.layer, index, np.array([target.position for target in single], np.int32))
    elif like is not None:
        excited = losses.caricature(first.layer, like[first.layer])
    else:
        excited = losses.layer(first.layer)
    return -np.array([target.weight for target in single], np.float32) * excited


def shortfall(targets: Sequence[Wanted]) -> Loss | None:
    """How far the units of one program are behind the most active one of their layer; None where no unit is meant."""
    single = [target for target in targets if isinstance(target, Target) and target.weight > 0]
    first = targets[0]
    if len(single) < len(targets) or not isinstance(first, Target) or first.kind not in ("class", "unit"):
        return None
    where = np.array([target.position for target in single], np.int32) if first.kind == "unit" else None
    return losses.shortfall(first.layer, np.array([target.index for target in single], np.int32), where)


def grouped(targets: Sequence[Wanted]) -> dict[tuple[object, ...], list[int]]:
    """The places of the targets of each program."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, target in enumerate(targets):
        groups.setdefault(target.program, []).append(place)
    return groups
