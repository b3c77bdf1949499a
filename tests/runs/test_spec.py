"""A spec can be written, read, compared and run again; what it cannot be is one line."""

import json
import tomllib

import pytest
from click.testing import CliRunner

from jaxopt_input.cli import main
from jaxopt_input.errors import InputError
from jaxopt_input.runs.spec import VERSION, Spec, differences

ODD = {"target": ['a"b\\c', "ü\x7f\n\u2028"], "rate": 1e-05, "big": 1e300, "flag": True, "steps": 3, "a/b": ""}
QUICK = ["--steps", "2", "--parameterization", "pixels", "--transform", "none"]


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def run(toy_nets):
    """The folder of a run."""
    made = ["--target", "first:1", "--target", "class:b", "--seed", 3, "--starts", 2, "--memory", "3GiB"]
    done = call("visualize", "--model", "toy_nets:build", *made, *QUICK, "--out", "out")
    assert done.exit_code == 0, done.output
    return toy_nets / "out"


def test_a_command_has_one_name_however_it_is_called(toy_nets):
    arguments = ["look", "filters", "--model", "toy_nets:build", "--out", "out"]
    done = CliRunner().invoke(main, arguments, prog_name="python -m jaxopt_input.cli")
    assert done.exit_code == 0, done.output
    assert Spec.read(toy_nets / "out" / "run.json").command == "look filters"


@pytest.mark.parametrize("model", ["tin100", None])
def test_round_trips(model):
    spec = Spec("look maps", ODD, model, 2**32 - 1)
    assert Spec.of(json.loads(json.dumps(spec.to_dict()))) == spec
    assert Spec.of(tomllib.loads(spec.to_toml())) == spec


@pytest.mark.parametrize(
    ("mapping", "hint"),
    [
        ({"command": "dream", "option": {}}, "nearest: options"),
        ({"command": "dream", "version": VERSION + 1}, "newer"),
        ({"options": {}}, "no command"),
        ({"command": 3}, "command of the spec"),
        ({"command": "dream", "seed": "4"}, "seed of the spec"),
        ({"command": "dream", "seed": True}, "seed of the spec"),
        ({"command": "dream", "options": {"target": [{}]}}, "option target"),
        ({"command": "dream", "options": {"target": None}}, "option target"),
        (["dream"], "list"),
    ],
)
def test_what_is_no_spec(mapping, hint):
    with pytest.raises(InputError, match=hint) as caught:
        Spec.of(mapping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "suffix", "hint"),
    [
        ("{", ".json", "neither a run.json nor a spec"),
        ("a = ", ".toml", "neither a run.json nor a spec"),
        ("[" * 100000, ".json", "neither a run.json nor a spec"),
        ("3", ".json", "int"),
        ('{"results": []}', ".json", "results"),
        (None, ".json", "cannot read"),
        ('{"command": "dream"}', ".json", "of the command dream"),
        ('{"command": "visualize", "options": {"stebs": 3}}', ".json", "nearest: steps"),
        ('command = "visualize"\\nversion = 99', ".toml", "newer"),
    ],
)
def test_configurations_that_are_none(tmp_path, text, suffix, hint):
    if text is not None:
        (tmp_path / f"a{suffix}").write_text(text.replace("\\n", "\n"))
    done = call("visualize", "--target", "class:3", "--config", tmp_path / f"a{suffix}", "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_record_holds_its_spec(run):
    info = json.loads((run / "run.json").read_text())
    spec = Spec.read(run / "run.json")
    assert (spec.command, spec.model, spec.seed) == ("visualize", "toy_nets:build", 3)
    options = {"target": ["first:1", "class:b"], "starts": 2, "steps": 2, "memory": "3GiB"}
    assert dict(spec.options) == {**options, "parameterization": "pixels", "transform": "none"}
    assert info["memory"] == 3 << 30
    assert {"dtype": "float32", "starts": 2, "field": False}.items() <= info["arguments"].items()


def test_a_configuration_in_toml(run):
    """What is given on the command line goes before; a British spelling is taken."""
    (run.parent / "spec.toml").write_text(Spec.read(run / "run.json").to_toml())
    done = call("visualize", "--config", "spec.toml", "--seed", 5, "--target", "first:*", "--out", "other")
    assert done.exit_code == 0, done.output
    info = json.loads((run.parent / "other" / "run.json").read_text())
    assert (info["seed"], len(info["results"])) == (5, 10)
    assert info["spec"]["options"]["parameterization"] == "pixels"


def test_rerun_gives_the_same_pictures(run):
    done = call("rerun", "out/run.json")
    assert done.exit_code == 0, done.output
    assert "5 of 5 pictures are the same" in done.stdout
    assert done.stderr == ""
    assert call("rerun", "out/run.json").exit_code == 1  # out-rerun is there
    assert call("rerun", "out/run.json", "--overwrite").exit_code == 0


def test_rerun_compares_nothing_where_no_earlier_picture_is(run):
    (run.parent / "alone.json").write_bytes((run / "run.json").read_bytes())
    done = call("rerun", "alone.json", "--out", "alone")
    assert done.exit_code == 0, done.output
    assert "no earlier pictures" in done.stdout
    assert "the same" not in done.stdout


def test_rerun_says_that_a_record_was_edited(run):
    info = json.loads((run / "run.json").read_text())
    info["spec"]["options"]["steps"] = 1
    (run / "run.json").write_text(json.dumps(info))
    done = call("rerun", "out/run.json", "--out", "edited")
    assert done.exit_code == 0, done.output
    assert "different options" in done.stderr
    assert "for the reasons above" in done.stderr


def test_rerun_names_what_is_different(run):
    info = json.loads((run / "run.json").read_text())
    info |= {"jax": "0.0.1", "code": "0" * 64, "device": "tpu v9 x 4", "model": {"name": "model", "sha256": "1" * 64}}
    (run / "run.json").write_text(json.dumps(info))
    (run / "class-1-start0.png").write_bytes(b"another picture")
    done = call("rerun", "out/run.json", "--out", "again")
    assert done.exit_code == 0, done.output
    kinds = [line.split()[2] for line in done.stderr.splitlines() if " different " in line]
    assert kinds == ["weights:", "versions:", "device:", "code:"]
    assert "1 of 5 pictures differ, such as class-1-start0.png, for the reasons above" in done.stderr


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"model": "weights/gone.safetensors"}, "no weight file weights/gone.safetensors"),
        ({"command": "visualise it"}, "unknown command"),
        ({"command": "rerun"}, "unknown command"),
        ({"version": 99}, "newer"),
        ({"options": {"traget": ["class:3"]}}, "nearest: target"),
    ],
)
def test_what_cannot_be_run_again(run, change, hint):
    info = json.loads((run / "run.json").read_text())
    info["spec"] |= change
    (run / "run.json").write_text(json.dumps(info))
    done = call("rerun", "out/run.json", "--out", "again")
    assert done.exit_code == 1, done.output
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (run.parent / "again").exists()


def test_equal_conditions_do_not_differ():
    info = {"version": "1", "jax": "2", "device": "cpu", "code": "0", "model": {"sha256": None}}
    assert differences(info, dict(info)) == []
