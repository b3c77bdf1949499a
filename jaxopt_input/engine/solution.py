"""`Solution`: what `minimize` returns, a pytree of lanes to take, join, rank, tabulate, show and save."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxopt_input.checks import count
from jaxopt_input.data import save_png, to_pillow
from jaxopt_input.engine import target as grammar
from jaxopt_input.engine.lanes import is_traced
from jaxopt_input.errors import InputError
from jaxopt_input.targets import register

SHOWN = 8  # rows and columns of a contact sheet, at most
_STATIC = ("targets", "check_steps")
_STEPS_FIRST = ("snapshots",)  # fields whose second axis is that of the lanes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """What `minimize` makes of N = targets x starts lanes, target-major.

    A pytree: it passes through `jax.jit`, `jax.vmap` and `jax.device_get`. Its arrays are on the devices where all
    lanes ran in one round, and NumPy arrays where they came off the devices round by round, or were taken or joined.

    Attributes:
        image: `[N, H, W, C]` float32 in [0, 1], the last iterate.
        best_image: `[N, H, W, C]`, the iterate with the least untransformed loss among `check_steps`.
        theta: the last θ, a pytree with leading axis N.
        loss: `[N, steps + 1]`, the loss before each update and after the last, under that step's transform.
        best_loss: `[N]`, the untransformed loss of `best_image`.
        best_step: `[N]` int32, its step.
        evaluations: `[N]` int32, how often each start would have run the network alone: gradients, the trials of a
            line search, the untransformed checks and the last value included.
        finite: `[N]` bool, False where a loss or gradient was not finite; such a start stopped there.
        dead: `[N]` bool, True where the gradient was zero at every step.
        snapshots: `[len(snapshots), N, H, W, C]`, the iterates at the steps asked for.
        target: `[N]` int32, the place of each lane's target in `targets`.
        start: `[N]` int32, the index of each lane among its target's starts.
        targets: what was aimed at: `engine.target` values where it was named by a text, else canonical names.
        check_steps: the steps at which `best_image` was chosen; the last is the last step.
        swept: `{name: [N]}`, the numbers in which the targets differ, such as "optimizer.learning_rate".
        milestone_image: `[N, H, W, C]`, the first iterate whose milestone was reached, the last one where none was;
            None without a milestone.
        milestone_step: `[N]` int32, its step, −1 where none was; None without a milestone.
        restarts: `[N]` int32, how often a line search met no lower loss along the direction of L-BFGS, which then
            forgot its past and began anew from the best θ.
        average_image: `[N, H, W, C]`, the image of the average θ of `optimizers.averaged`; None without it.
        optimizer_state: the optimizer's last state, a pytree with leading axis N, with which `minimize` goes on from
            this solution; None where the lanes did not all run at once.

    Example:
        >>> import jaxopt_input as joi
        >>> model = joi.from_function(lambda p, x, taps: {"logits": x.mean((1, 2)) @ p}, jnp.eye(3),
        ...                           image_shape=(8, 8, 3), taps=("logits",))
        >>> solution = joi.minimize(-joi.losses.class_logit([0, 2]), model, steps=4, starts=3, key=jax.random.key(0))
        >>> solution
        Solution(6 images (8, 8, 3) of class:0, class:2 after 4 steps)
        >>> solution.best(1).names, solution.take([5, 0]).start.tolist()
        (('class:0', 'class:2'), [2, 0])
    """

    image: jax.Array
    best_image: jax.Array
    theta: Any
    loss: jax.Array
    best_loss: jax.Array
    best_step: jax.Array
    evaluations: jax.Array
    finite: jax.Array
    dead: jax.Array
    snapshots: jax.Array
    target: Any
    start: Any
    targets: tuple[Any, ...]
    check_steps: tuple[int, ...]
    swept: dict[str, Any] = dataclasses.field(default_factory=dict)
    milestone_image: jax.Array | None = None
    milestone_step: jax.Array | None = None
    restarts: jax.Array | None = None
    average_image: jax.Array | None = None
    optimizer_state: Any = None

    def __repr__(self) -> str:
        targets = ", ".join([*map(str, self.targets[:SHOWN]), *["…"] * (len(self.targets) > SHOWN)])
        return f"Solution({len(self)} images {self.image.shape[1:]} of {targets} after {self.check_steps[-1]} steps)"

    def __len__(self) -> int:
        return len(self.finite)

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name of each lane's target."""
        distinct = [str(target) for target in self.targets]
        return tuple(distinct[n] for n in np.asarray(self.target).tolist())

    def of_target(self, n: int) -> np.ndarray:
        """The lanes of `targets[n]`."""
        return np.flatnonzero(np.asarray(self.target) == n)

    def take(self, lanes: Any) -> Solution:
        """Some lanes, in the order asked for; targets without any are left out.

        Args:
            lanes: indices, a mask or a slice.

        Raises:
            InputError: for anything else, or a lane that does not exist.

        Example:
            >>> import jaxopt_input as joi
            >>> s = joi.visualize(joi.load("mnist"), ["class:3", "class:5"], starts=2, steps=2)
            >>> s.take([3, 0]).names, s.take(s.target == 1).targets
            (('class:5', 'class:3'), (Target(kind='class', layer='logits', index=5, position=(), weight=1.0),))
        """
        traced = is_traced(lanes)
        lanes = jnp.asarray(lanes) if traced else _indices(lanes, len(self))

        def rows(x: Any, axis: int) -> Any:
            x = jnp.asarray(x) if traced or is_traced(x) else np.asarray(x)  # nothing to compile for what is there
            return x[(slice(None),) * axis + (lanes,)]

        out = self._map(rows)
        if is_traced(out.target):
            return out
        used, where, inverse = np.unique(np.asarray(out.target), return_index=True, return_inverse=True)
        order = np.argsort(where)  # targets by their first lane
        return dataclasses.replace(
            out,
            targets=tuple(self.targets[n] for n in used[order]),
            target=np.argsort(order)[inverse].astype(np.int32),
        )

    @classmethod
    def concat(cls, solutions: Sequence[Solution]) -> Solution:
        """Several solutions as one, lane after lane; equal targets of two solutions stay apart.

        What only some of them have, θ of different shapes and optimizer states are left out; a swept number that
        some do not have is NaN there.

        Raises:
            InputError: for none at all, something else, or images of different shapes.

        Example:
            >>> import jaxopt_input as joi
            >>> model = joi.load("mnist")
            >>> both = joi.Solution.concat([joi.visualize(model, target, steps=2) for target in ("class:3", "class:5")])
            >>> both.names, both.loss.shape
            (('class:3', 'class:5'), (2, 3))
        """
        if isinstance(solutions, Solution) or not np.iterable(solutions):
            raise InputError(f"what is joined is a sequence of solutions, not a {type(solutions).__name__}")
        solutions = list(solutions)
        if not solutions:
            raise InputError("no solution to join: give at least one")
        if other := [s for s in solutions if not isinstance(s, Solution)]:
            raise InputError(f"what is joined are solutions, as minimize and visualize return them, not {other[0]!r}")
        if len(solutions) == 1:
            return solutions[0]
        shapes = {(s.image.shape[1:], s.loss.shape[1:], s.snapshots.shape[:1]) for s in solutions}
        if len(shapes) > 1:
            raise InputError("solutions of different image shapes, steps or snapshots cannot be joined")
        parts: dict[str, Any] = {}
        offsets = np.cumsum([0, *(len(s.targets) for s in solutions)])
        solutions = [dataclasses.replace(s, target=s.target + n) for s, n in zip(solutions, offsets[:-1], strict=True)]
        for name in _ARRAYS:
            values = [getattr(s, name) for s in solutions]
            whole = not any(value is None for value in values)
            parts[name] = _joined(values, 1 if name in _STEPS_FIRST else 0) if whole else None
        thetas = {str(jax.tree.map(lambda x: np.shape(x)[1:], s.theta)) for s in solutions}
        theta = () if len(thetas) > 1 else jax.tree.map(lambda *x: _joined(x), *(s.theta for s in solutions))
        swept = {
            name: _joined([s.swept.get(name, np.full(len(s), np.nan, np.float32)) for s in solutions])
            for name in dict.fromkeys(name for s in solutions for name in s.swept)
        }
        targets = tuple(target for s in solutions for target in s.targets)
        parts |= {"theta": theta, "swept": swept, "targets": targets, "optimizer_state": None}
        return dataclasses.replace(solutions[0], **parts)

    def best(self, k: int = 1) -> Solution:
        """The k best starts of each target, by `best_loss`, the best first; starts that never were finite come last.

        Raises:
            InputError: for k that is no whole number, or below 1.
        """
        k = count("the number of starts to keep", k)
        loss: Any = self.best_loss
        if is_traced(loss, self.target):  # lanes are target-major there
            rank = jnp.argsort(jnp.where(jnp.isnan(loss), jnp.inf, loss).reshape(len(self.targets), -1), axis=1)
            offset = jnp.arange(len(self.targets))[:, None] * rank.shape[1]
            return self.take((offset + rank[:, :k]).reshape(-1))
        order = np.lexsort((np.asarray(self.start), np.nan_to_num(np.asarray(loss), nan=np.inf), self.target))
        target = np.asarray(self.target)[order]
        place = np.arange(len(order)) - np.searchsorted(target, target)
        return self.take(order[place < k])

    def named(self, targets: Sequence[Any]) -> Solution:
        """The same with these values for `targets`, one for each of them."""
        return dataclasses.replace(self, targets=tuple(targets))

    def then(self, later: Solution) -> Solution:
        """This run and a later one of the same lanes, from its images, as one: θ is the later's, the best of either.

        Example:
            >>> import jaxopt_input as joi
            >>> model, kw = joi.load("mnist"), {"transform": None, "key": jax.random.key(0)}
            >>> first = joi.minimize(-joi.losses.class_logit(3), model, steps=2, **kw)
            >>> both = first.then(joi.minimize(-joi.losses.class_logit(3), model, steps=3, initial=first, **kw))
            >>> both.loss.shape, both.check_steps[-1]
            ((1, 6), 5)
        """
        steps = self.loss.shape[1] - 1
        offset = self.check_steps[-1] - (later.check_steps[-1] - (later.loss.shape[1] - 1))  # 0 where it went on
        xp: Any = jnp if is_traced(self, later) else np
        first_loss, later_loss = xp.asarray(self.best_loss), xp.asarray(later.best_loss)
        better = (later_loss < first_loss) | ~xp.isfinite(first_loss)

        def sum_of(name: str) -> Any:
            parts = getattr(self, name), getattr(later, name)
            return None if parts[0] is None or parts[1] is None else xp.asarray(parts[0]) + xp.asarray(parts[1])

        return dataclasses.replace(
            later,
            best_image=xp.where(better[:, None, None, None], later.best_image, self.best_image),
            loss=_joined([xp.asarray(self.loss)[:, :steps], later.loss], 1),
            best_loss=xp.where(better, later_loss, first_loss),
            best_step=xp.where(better, xp.asarray(later.best_step) + offset, self.best_step),
            evaluations=sum_of("evaluations"),
            restarts=sum_of("restarts"),
            finite=xp.logical_and(self.finite, later.finite),
            dead=xp.logical_and(self.dead, later.dead),
            snapshots=_joined([self.snapshots, later.snapshots]),
            check_steps=tuple(sorted({*self.check_steps, *(offset + n for n in later.check_steps)})),
        )

    def _map(self, function: Any) -> Solution:
        """A function of (array, axis of the lanes) on every array."""
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            if field.name not in _STATIC:
                axis = 1 if field.name in _STEPS_FIRST else 0
                parts[field.name] = jax.tree.map(lambda x, axis=axis: function(x, axis), getattr(self, field.name))
        return dataclasses.replace(self, **parts)

    def to_table(self) -> list[dict[str, Any]]:
        """One row per lane: plain numbers and texts by name, for `pandas.DataFrame(…)` or the `csv` module.

        Example:
            >>> import jaxopt_input as joi
            >>> row = joi.visualize(joi.load("mnist"), "class:3", steps=2).to_table()[0]
            >>> row["target"], row["start"], sorted(row)[:4]
            ('class:3', 0, ['best', 'best_step', 'dead', 'evaluations'])
        """
        loss = np.asarray(self.loss)
        columns = {
            "start": self.start,
            "first": loss[:, 0],
            "last": loss[:, -1],
            "best": self.best_loss,
            "best_step": self.best_step,
            "evaluations": self.evaluations,
            "finite": self.finite,
            "dead": self.dead,
            "restarts": self.restarts,
            "milestone_step": self.milestone_step,
            **self.swept,
        }
        lists = {name: np.asarray(values).tolist() for name, values in columns.items() if values is not None}
        names = self.names
        return [{"target": names[n], **{name: values[n] for name, values in lists.items()}} for n in range(len(self))]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the best images as PNG files and all arrays into a folder, which is made if need be; `load` reads it.

        θ and the optimizer's state are left out.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for n, (name, start) in enumerate(zip(self.names, np.asarray(self.start).tolist(), strict=True)):
            image = np.nan_to_num(np.asarray(self.best_image[n]), nan=0.5)
            save_png(folder / f"{n:05d}.png", image, {"target": name, "start": str(start)})
        arrays: dict[str, Any] = {name: value for name in _ARRAYS if (value := getattr(self, name)) is not None}
        arrays |= {f"swept/{name}": value for name, value in self.swept.items()}
        static = {"targets": [grammar.to_data(t) for t in self.targets], "check_steps": list(self.check_steps)}
        arrays["static"] = json.dumps(static)
        np.savez(folder / "solution.npz", **{name: np.asarray(value) for name, value in arrays.items()})  # type: ignore[arg-type]

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Solution:
        """What `save` wrote.

        Raises:
            InputError: for a folder without a solution.

        Example:
            >>> import tempfile, jaxopt_input as joi
            >>> folder = tempfile.mkdtemp()
            >>> joi.visualize(joi.load("mnist"), "class:3", steps=2).save(folder)
            >>> Solution.load(folder).targets[0].index
            3
        """
        try:
            with np.load(Path(folder) / "solution.npz") as file:
                parts = dict(file)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no solution: {error}") from error
        static = json.loads(str(parts.pop("static")))
        swept = {name.removeprefix("swept/"): parts.pop(name) for name in list(parts) if name.startswith("swept/")}
        targets = tuple(grammar.from_data(data) for data in static["targets"])
        return Solution(**parts, theta=(), swept=swept, targets=targets, check_steps=tuple(static["check_steps"]))

    def show(self) -> Image.Image:
        """A contact sheet of the best images, a row per target: a notebook shows it, `.show()` opens it."""
        rows = [self.of_target(n)[:SHOWN] for n in range(min(len(self.targets), SHOWN))]
        height, width = self.best_image.shape[1:3]
        columns = max(len(row) for row in rows)
        sheet = Image.new("RGB", (columns * (width + 2), len(rows) * (height + 2)), "white")
        for top, row in enumerate(rows):
            for left, lane in enumerate(row):
                sheet.paste(self._picture(lane), (left * (width + 2) + 1, top * (height + 2) + 1))
        return sheet

    def _picture(self, lane: int) -> Image.Image:
        return to_pillow(np.nan_to_num(np.asarray(self.best_image[lane]), nan=0.5)).convert("RGB")

    def _repr_html_(self) -> str:
        """The contact sheet of a notebook: the best images as data URIs, a row per target."""
        if is_traced(self):
            return html.escape(repr(self))
        rows, loss = [], np.asarray(self.best_loss)
        for n, target in enumerate(self.targets[:SHOWN]):
            cells = []
            for lane in self.of_target(n)[:SHOWN]:
                buffer = io.BytesIO()
                self._picture(lane).save(buffer, "PNG")
                data = base64.b64encode(buffer.getvalue()).decode()
                title = f"start {int(self.start[lane])}, best loss {loss[lane]:.4g}"
                cells.append(f'<td><img title="{title}" src="data:image/png;base64,{data}"></td>')
            rows.append(f"<tr><th>{html.escape(str(target))}</th>{''.join(cells)}</tr>")
        more = f"{len(self)} images of {len(self.targets)} targets after {self.check_steps[-1]} steps"
        return f"<table>{''.join(rows)}<caption>{more}</caption></table>"


def _indices(lanes: Any, n: int) -> np.ndarray:
    """Which of n lanes are asked for, as their numbers."""
    try:
        return np.atleast_1d(np.arange(n)[lanes if isinstance(lanes, slice) or np.size(lanes) else slice(0)])
    except (IndexError, ValueError) as error:
        raise InputError(f"lanes are indices below {n}, a mask of {n} or a slice, not {lanes!r}") from error


register(Solution, static=_STATIC)
_ARRAYS = tuple(
    field.name
    for field in dataclasses.fields(Solution)
    if field.name not in (*_STATIC, "theta", "swept", "optimizer_state")
)


def _joined(values: Sequence[Any], axis: int = 0) -> Any:
    if is_traced(values):
        return jnp.concatenate([jnp.asarray(value) for value in values], axis)
    return np.concatenate([np.asarray(value) for value in values], axis)
