"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from fedhft.paths import expanded


def test_the_users_folder_is_put_in_place_of_a_tilde() -> None:
    assert expanded("~/runs") == Path.home() / "runs"
    assert expanded(Path("runs/~")) == Path("runs/~")


def test_a_user_that_is_not_there_leaves_the_path_as_it_is() -> None:
    assert expanded("~nobody-of-this-name/runs") == Path("~nobody-of-this-name/runs")
