"""One example as it stands in a file."""

from __future__ import annotations

import json

import pytest

from fedhft.datasets.examples import Example


@pytest.mark.parametrize(
    ("example", "line"),
    [
        (Example("ä", None, 1.0), '{"text": "ä", "label": 1}'),
        (Example("a", None, 2), '{"text": "a", "label": 2}'),
        (Example("a", "b", -0.25), '{"text": "a", "text_pair": "b", "label": -0.25}'),
    ],
)
def test_an_example_is_written_with_its_pair_and_an_integral_label_as_an_integer(example: Example, line: str) -> None:
    assert example.to_json() == line
    read = json.loads(line)
    assert Example(read["text"], read.get("text_pair"), read["label"]) == example
