"""Start-up: what is imported when, and compiled programs that the next process finds again."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from click.testing import CliRunner

import jaxopt_input as joi
from jaxopt_input.cli import main
from jaxopt_input.disk import CACHE_VARIABLE
from jaxopt_input.runs import cache

HEAVY = {"jax", "jaxlib", "flax", "optax", "numpy", "tensorflow", "torch", "matplotlib", "PIL", "sklearn"}
SOURCE = Path(joi.__file__).parents[1]


def python(code, **variables):
    """Runs code in a fresh process that finds this source tree."""
    path = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def imported(code):
    """What of `HEAVY` a fresh process has imported after running code, and the processor time it took."""
    done = python(
        f"import sys, time\n{code}\nprint('\\n', [m for m in sys.modules if m in {HEAVY}], time.process_time())"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules, _, seconds = done.stdout.splitlines()[-1].rpartition(" ")
    return set(eval(modules)), float(seconds)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["visualize", "--help"], ["models", "import", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = f"from jaxopt_input.cli import main\nmain({arguments}, standalone_mode=False)"
    modules, seconds = imported(code)
    assert modules == set()
    assert seconds < 1  # 0.1 s; generous, for machines under load


def test_every_command_tells_its_help_without_jax():
    code = """
from click.testing import CliRunner
from jaxopt_input.cli import main
for name in main.commands:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output
"""
    assert imported(code)[0] == set()


def test_the_library_imports_neither_tensorflow_nor_torch():
    modules, _ = imported("import jaxopt_input as joi\n[getattr(joi, name) for name in joi.__all__]")
    assert "jax" in modules
    assert not modules & {"tensorflow", "torch", "matplotlib", "sklearn"}


def test_names_of_the_library():
    assert all(getattr(joi, name) is not None for name in joi.__all__)
    assert set(joi.__all__) <= set(dir(joi))
    assert joi.targets.__name__ == "jaxopt_input.targets"  # a module that is not in __all__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        joi.nothing_of_the_kind  # noqa: B018


def test_importing_changes_no_setting_of_jax():
    code = """
import jax
before = dict(jax.config.values)
import jaxopt_input as joi
[getattr(joi, name) for name in joi.__all__]
assert dict(jax.config.values) == before
"""
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]


RUN = """
import sys, jax
from jaxopt_input.cli import main
seconds = []
jax.monitoring.register_event_listener(lambda event, **_: seconds.append(event))
main({arguments}, standalone_mode=False)
print("hits", sum(e == "/jax/compilation_cache/cache_hits" for e in seconds),
      "misses", sum(e == "/jax/compilation_cache/cache_misses" for e in seconds))
"""


COMMAND = ["visualize", "--model", "toy_nets:build", "--target", "first:1", "--steps", "2"]
COMMAND += ["--parameterization", "pixels", "--transform", "none"]


def run(out, cache_folder, group=("--verbose",)):
    arguments = [*group, *COMMAND, "--out", out]
    variables = {CACHE_VARIABLE: str(cache_folder), cache.JAX_VARIABLE: ""}
    done = python(RUN.format(arguments=arguments), **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    words = done.stdout.split()
    return done.stderr, int(words[words.index("hits") + 1]), int(words[words.index("misses") + 1])


@pytest.mark.slow
def test_programs_are_kept_for_the_next_process(toy_nets):
    kept = toy_nets / "cache"
    told, hits, misses = run("a", kept)
    assert f"kept in {kept / 'compiled'}" in told
    assert misses > max(hits, 2)  # two programs of a process may be the same
    told, again, missed = run("b", kept, group=())
    assert told == ""  # no warnings of the loader of machine code
    assert again == misses + hits
    assert missed == 0
    told, *counts = run("c", kept, group=("--no-cache", "--verbose"))
    assert "not kept" in told
    assert counts == [0, 0]
    for file in (kept / "compiled").iterdir():
        file.write_bytes(file.read_bytes()[:100])  # as a full disk leaves it
    told, hits, _ = run("d", kept, group=())
    assert told == ""
    assert hits <= 1
    first, *others = ((toy_nets / out / "first-1-start0.png").read_bytes() for out in "abcd")
    assert others == [first] * 3


def test_a_folder_that_cannot_be_written_breaks_no_run(toy_nets, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(toy_nets))
    monkeypatch.delenv(cache.JAX_VARIABLE, raising=False)
    (toy_nets / "compiled").write_text("a file where the folder should be")
    folder = jax.config.jax_compilation_cache_dir
    done = CliRunner().invoke(main, ["--verbose", *COMMAND, "--out", "out"])
    assert done.exit_code == 0, done.output
    assert f"cannot keep compiled programs in {toy_nets / 'compiled'}: File exists" in done.stderr
    assert jax.config.jax_compilation_cache_dir == folder
    assert (toy_nets / "out" / "run.json").is_file()


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(bytes(40))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(cache, "MOST_BYTES", 90)
    cache._make_room(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["middle", "new"]


def test_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.JAX_VARIABLE, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache.compiled_folder() == tmp_path / "compiled"
    monkeypatch.setenv(cache.JAX_VARIABLE, str(tmp_path / "of-jax"))
    assert cache.compiled_folder() == tmp_path / "of-jax"
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the folder alone is of interest here
    assert joi.compilation_cache(tmp_path / "own") == tmp_path / "own"
    assert (tmp_path / "own").is_dir()
