"""The benchmark on a toy network: what it counts, shows and refuses. No test here depends on how fast anything is."""

import dataclasses
import json

import jax
import pytest
from click.testing import CliRunner
from PIL import Image

from jaxopt_input.cli import main
from jaxopt_input.engine.lanes import Resources
from jaxopt_input.errors import InputError
from jaxopt_input.methods.bench import recipe as bench
from jaxopt_input.methods.bench.page import as_rows, saturation, table
from jaxopt_input.methods.bench.recipe import Ceiling, First, Measurement, Report, Spread, plan
from jaxopt_input.models.flops import Work


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Calls are not repeated, and the ceilings are of small arrays."""
    monkeypatch.setattr(bench, "LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(bench, "_SIZES", {})
    monkeypatch.setattr(bench, "_LARGE", (64, 1 << 16))


def measurement(toy, seconds, batch=4, dtype="float32"):
    """A measurement with round numbers: a loop of 8 steps."""
    (case,) = plan([toy], tasks=["class"], batches=[batch], dtypes=[dtype], steps=8)
    return Measurement(
        case,
        Spread((0.5, 1.0, 2.0)),
        Spread(seconds),
        First(3.0, 4.0),
        First(1.0, 2.0),
        Work(4 * 10**9, 4 * 10**8),
        1 << 20,
        None,
    )


def test_rates_and_fractions_follow_from_the_seconds(toy):
    ceiling = Ceiling(Spread((8e9,)), Spread((1e9,)))
    report = Report((measurement(toy, (2.0, 4.0, 8.0)),), {"float32": ceiling})
    (row,) = as_rows(report)
    assert row["gradients_per_second"] == {"median": 4.0, "quartiles": [3.0, 6.0]}  # 4 images: 8, 4 and 2
    assert row["image_steps_per_second"] == {"median": 8.0, "quartiles": [6.0, 12.0]}  # 32: 16, 8 and 4
    assert row["flops_per_second"] == 4e9
    assert (row["fraction_of_product"], row["fraction_of_copy"]) == (0.5, 0.4)
    assert row["compile_seconds"] == {"cold": 3.0, "cached": 1.0}
    assert row["first_picture_seconds"] == {"cold": 4.0, "cached": 2.0}
    line = table(report).splitlines()[1]
    assert line.split()[:4] == ["toy", "class", "float32", "4"]
    assert "50.0%" in line
    assert "40.0%" in line


def test_saturation_is_the_smallest_batch_near_the_best(toy):
    # image-steps/s: 8 / 1, 16 / 1.05, 32 / 2: 8, 15.24 and 16. Of these 15.24 is within 5 % of the best.
    measured = [measurement(toy, (seconds,), batch) for batch, seconds in ((1, 1.0), (2, 1.05), (4, 2.0))]
    report = Report(tuple(measured), {})
    assert saturation(report) == {("toy", "class", "float32"): 2}
    slower = dataclasses.replace(measured[1], loop=Spread((1.06,)))  # 15.09: not within
    rising = Report((measured[0], slower, measured[2]), {"float32": Ceiling(Spread((8e9,)), Spread((1e9,)))})
    assert saturation(rising) == {}  # the largest batch is no saturation point, nor is a batch alone
    assert not any(row["saturated"] for row in as_rows(rising))


@pytest.mark.slow
def test_cases_run_in_turns(toy, monkeypatch):
    order = []
    often = bench._often

    def recorded(function):
        timed = often(function)
        return lambda: (order.append(id(function)), timed())[1]

    monkeypatch.setattr(bench, "_often", recorded)
    reports, events = [], []

    def listen(event, **_):
        events.append(event)

    jax.monitoring.register_event_listener(listen)
    cases = [
        *plan([toy], tasks=["style"], batches=[2], steps=2),
        *plan([toy], tasks=["pgd"], batches=[2], dtypes=["bfloat16"], steps=2),
    ]
    report = bench.measure(cases, repeats=2, on=Resources(progress=lambda *report: reports.append(report)))
    jax.monitoring.unregister_event_listener(listen)
    kinds = [event for event in events if event.startswith("/jax/compilation_cache/cache_")]
    missed, hit = (f"/jax/compilation_cache/cache_{kind}" for kind in ("misses", "hits"))
    assert missed in kinds[: len(kinds) - kinds[::-1].index(hit)]  # compiled first, then read back
    assert order[: len(order) // 2] == order[len(order) // 2 :]  # two equal rounds
    assert len(set(order)) == len(order) // 2 == 2 * 2 + 2 * 2  # gradient and loop of each case, ceilings of each dtype
    assert [done for done, _ in reports] == list(range(1, reports[-1][1] + 1))
    assert [m.case for m in report.measurements] == cases
    for m in report.measurements:
        assert len(m.gradient.values) == len(m.loop.values) == 2
        assert min(m.cold.compile, m.cold.picture, m.cached.compile, m.cached.picture) > 0
        assert m.gradient_bytes > 2 * 12 * 10 * 3 * 4  # the images at least
    layers = 4 * 12 * 10 * 9 * (3 * 8 + 8 * 8) + 4 * 8 * 5  # two convolutions and the head
    assert report.measurements[1].work.flops == 2 * layers
    assert set(report.ceilings) == {"float32", "bfloat16"}


def test_a_task_s_gradient_is_that_of_its_loss(toy):
    (case,) = plan([toy], tasks=["unit"], batches=[3], steps=2)
    run, _ = bench._gradient(case)
    value, gradient = run(0)
    images = bench.smooth_images(3, toy.info.image_shape)
    center = toy.activations(images, [case.loss.taps[0]])[case.loss.taps[0]][:, 6, 5, 0]
    # float32 sums of 27 and 72 products in another order
    assert value == pytest.approx(-float(center.sum()), rel=1e-5)
    assert gradient.shape == images.shape


def test_the_work_of_a_style_is_more_than_a_dream_s(toy):
    cases = plan([toy], tasks=["dream", "style"], batches=[1], steps=2)
    assert [case.parameterization for case in cases] == ["pixels", "pixels"]
    dream, style = map(bench._work, cases)
    # Both read the first convolution. A Gram matrix of 8 channels on 12x10 positions is a product, and two backwards.
    assert (cases[0].loss.taps, cases[1].loss.taps) == (("first",), ("first",))
    assert dream.flops == 4 * 120 * 9 * 3 * 8
    assert style.flops - dream.flops == 3 * 2 * 120 * 8 * 8


def test_the_users_compilation_cache_is_left_alone(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    with bench._empty_cache():
        assert jax.config.jax_compilation_cache_dir not in (before, str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["clas"]}, "unknown task 'clas'; nearest: class"),
        ({"dtypes": ["float16"]}, "unknown dtype 'float16'; nearest: bfloat16, float32"),
        ({"batches": [0]}, "a batch must be at least 1, not 0"),
        ({"batches": ["x"]}, "a batch must be a whole number, at least 1, not 'x'"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"tasks": []}, "nothing to measure"),
        ({"tasks": ["pgd"], "transform": "lucid"}, "pgd moves pixels without a transform"),
        ({"tasks": ["class"], "transform": "lucit"}, "unknown transform 'lucit'; nearest: lucid"),
        ({"tasks": ["class"], "target": "class:*"}, "one target is measured, not 5: name a single one, not class:*"),
    ],
)
def test_bad_input(toy, options, message):
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        plan([toy], **options)


def test_models_of_one_name_are_refused(toy):
    with pytest.raises(InputError, match="two models are named 'toy'"):
        plan([toy, dataclasses.replace(toy)], tasks=["class"])


def test_what_does_not_fit_is_named_and_left_out(toy, monkeypatch):
    prepare = bench._prepare

    def little(case, device, tick):
        if case.batch == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")
        return prepare(case, device, tick)

    monkeypatch.setattr(bench, "_prepare", little)
    report = bench.measure(plan([toy], tasks=["dream"], batches=[4, 2], steps=2), repeats=1)
    assert [m.case.batch for m in report.measurements] == [2]
    assert as_rows(report)[-1]["failed"].startswith("RESOURCE_EXHAUSTED: Out of memory")
    assert "toy dream float32 4: RESOURCE_EXHAUSTED" in table(report)


def test_work_and_bytes_are_an_images_and_weights_are_read_once_per_batch(toy):
    single, many = (bench._work(case) for case in plan([toy], tasks=["class"], batches=[1, 16]))
    assert many.flops == 16 * single.flops
    assert many.bytes < 16 * single.bytes


def run(*args):
    return CliRunner().invoke(main, ["bench", "--model", "toy_nets:build", "--out", "out", *map(str, args)])


@pytest.mark.slow
def test_command(toy_nets):
    done = run("--task", "pgd", "--batch", "2", "--steps", 2, "--repeats", 2)
    assert done.exit_code == 0, done.output
    info = json.loads((toy_nets / "out" / "run.json").read_text())
    assert info["command"] == "bench"
    assert info["arguments"]["batch"] == "2"
    assert [row["batch"] for row in info["results"]] == [2]
    assert all(row["image_steps_per_second"]["median"] > 0 for row in info["results"])
    assert info["ceilings"]["float32"]["flops_per_second"]["median"] > 0
    assert "bench.png" in info["files"]
    assert info["models"] == [info["model"]]
    assert Image.open(toy_nets / "out" / "bench.png").size == (770, 462)
    lines = done.stdout.strip().splitlines()
    assert lines[0].split()[:4] == ["model", "task", "dtype", "batch"]
    assert lines[1].split()[1:4] == ["pgd", "float32", "2"]
    assert lines[2].startswith("float32: matrix product")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--task", "clas"), "unknown task 'clas'; nearest: class"),
        (("--batch", "0"), "a batch must be at least 1, not 0"),
        (("--batch", "two"), "batches are whole numbers separated by commas"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
    ],
)
def test_bad_arguments_leave_nothing(toy_nets, args, message):
    done = run(*args)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (toy_nets / "out").exists()
