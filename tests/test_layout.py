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


def for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imported(path):
    """What a module imports of the package, within functions too; not what it imports for types alone."""
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        nodes += node.orelse if for_types(node) else ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxopt_input":
            base = node.module.removeprefix("jaxopt_input").removeprefix(".")
            yield from {resolved(f"{base}.{alias.name}".strip(".")) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
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


def circles(graph):
    """What is left after those that import nothing that is left are taken away, one after the other."""
    left = dict(graph)
    while free := [name for name, others in left.items() if not others & {*left} - {name}]:
        for name in free:
            del left[name]
    return left


def test_no_circle():
    assert not circles(IMPORTS)


def test_no_circle_of_rooms():
    """What rooms take from each other does not go back and forth."""
    rooms = {}
    for name, others in IMPORTS.items():
        if name.startswith("methods."):
            rooms.setdefault(name.split(".")[1], set()).update(
                other.split(".")[1] for other in others if other.startswith("methods.")
            )
    assert len(rooms) > 10
    assert not circles(rooms)
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}).keys() == {"a", "b", "c"}


def test_a_room_goes_from_command_to_page_to_recipe_and_not_back():
    ranks = {"command": 2, "page": 1}
    for name, others in IMPORTS.items():
        if name.startswith("methods.") and (here := ranks.get(name.rpartition(".")[2], 0)) < 2:
            room = name.rpartition(".")[0]
            back = [
                other for other in others if other.startswith(room) and ranks.get(other.rpartition(".")[2], 0) > here
            ]
            assert not back, name
