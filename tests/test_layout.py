"""The layout: a module imports from those above it in the list, never from those below, and no two in a circle."""

import ast
import pathlib

import jaxopt_input

ROOT = pathlib.Path(jaxopt_input.__file__).parent
# Groups from the top down; those of one group are beside each other.
ORDER = (
    ("errors", "names", "disk"),
    ("targets",),
    ("checks",),
    ("kernels",),
    ("images", "transforms", "projections"),
    ("losses",),
    ("optimizers",),
    ("models",),
    ("networks",),
    ("data",),
    ("engine",),
    ("attacks",),
    ("draw",),
    ("runs",),
    ("methods",),
    ("cli",),
)
PLACE = {name: place for place, group in enumerate(ORDER) for name in group}
PACKAGE = ("__init__", "__main__", "_weights")  # the front doors, which import everything when it is asked for


def modules():
    """Every module's path by its dotted name within the package."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__", path


MODULES = dict(modules())


def resolved(name):
    """The module that an imported name is in, or is."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def imported(path):
    """What a module imports of the package as it is imported itself: not within functions, nor for types alone."""
    statements = list(ast.parse(path.read_text()).body)
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            statements += statement.orelse
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.ClassDef):
            statements += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        elif isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] == "jaxopt_input":
            base = statement.module.removeprefix("jaxopt_input").removeprefix(".")
            yield from {resolved(f"{base}.{alias.name}".strip(".")) for alias in statement.names}
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.name.startswith("jaxopt_input."):
                    yield resolved(alias.name.removeprefix("jaxopt_input."))


IMPORTS = {name: set(imported(path)) - {name, ""} for name, path in MODULES.items() if name not in PACKAGE}


def test_every_module_has_a_place():
    assert {name.partition(".")[0] for name in MODULES} - {*PACKAGE} == {*PLACE}


def test_imports_go_up_the_list():
    below = {
        (name, other)
        for name, others in IMPORTS.items()
        for other in others
        if PLACE[other.partition(".")[0]] > PLACE[name.partition(".")[0]]
    }
    assert not below


def test_no_circle():
    """A module that imports nothing that is left is taken away, until none is left."""
    left = dict(IMPORTS)
    while free := [name for name, others in left.items() if not others & {*left} - {name}]:
        for name in free:
            del left[name]
    assert not left


def test_a_room_goes_from_command_to_page_to_recipe_and_not_back():
    ranks = {"command": 2, "page": 1}
    for name, others in IMPORTS.items():
        if name.startswith("methods.") and (here := ranks.get(name.rpartition(".")[2], 0)) < 2:
            room = name.rpartition(".")[0]
            back = [
                other for other in others if other.startswith(room) and ranks.get(other.rpartition(".")[2], 0) > here
            ]
            assert not back, name
