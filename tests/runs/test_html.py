"""What the document of a run shows besides its own pictures."""

from jaxopt_input.runs.html import html


def test_parts_are_linked_and_their_pictures_shown():
    rows = [{"target": "class:1", "image": "a/x.png"}, {"target": "class:1", "image": "gone.png"}]
    compared = [{"folder": "a", "name": "net", "data": "a/data.png"}, {"folder": "b", "name": "other"}]
    text = html({"command": "visualize", "files": [], "parts": ["a", "b"], "results": rows, "compared": compared})
    for link in ("a/index.html", "b/index.html", "a/data.png", "a/x.png"):
        assert f'href="{link}"' in text
    assert "gone.png" not in text


def test_results_without_pictures_are_a_table():
    rate = {"median": 123456.0, "quartiles": [1.0, 2.0]}
    text = html({"command": "bench", "results": [{"task": "<unit>", "batch": 4, "image_steps_per_second": rate}]})
    for cell in ("<td>&lt;unit&gt;</td>", "<td>4</td>", "<th>image steps per second median</th>", "<td>1.235e+05</td>"):
        assert cell in text
