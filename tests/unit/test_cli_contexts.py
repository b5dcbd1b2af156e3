"""Contexts: where they are kept, what is refused, and that options and variables win over them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from fedhft.cli.contexts import Context, chosen_context, read_contexts
from fedhft.cli.server_options import DEFAULT_SERVER, ServerOptions
from fedhft.errors import ErrorCode, FedhftError
from fedhft.jobs.client import JobsClient
from tests.cli_runner import Done, run_cli


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("FEDHFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path


def config(*arguments: str, **environment: str) -> Done:
    return run_cli("config", *arguments, **environment)


def ok(*arguments: str, **environment: str) -> str:
    done = config(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: str, **environment: str) -> str:
    done = config(*arguments, **environment)
    assert (done.returncode, done.stdout) == (14, "")
    return done.stderr


def test_the_first_context_is_in_use_and_another_one_can_be_chosen(home: Path) -> None:
    assert "no contexts yet" in ok("list")
    ok("set", "clinics", "--admin-server", "agg:50053", "--server", "agg:50051", "--tls-authority", "ca.crt")
    ok("set", "lab", "--admin-server", "10.0.0.1:50053")
    assert json.loads(ok("current", "-o", "json"))["name"] == "clinics"
    ok("use", "lab")
    assert ok("current").splitlines() == ["context: lab", "admin server: 10.0.0.1:50053"]
    assert ok("list", "-o", "name").split() == ["clinics", "lab"]
    told = json.loads(ok("list", "-o", "json"))
    assert (told["current"], told["file"]) == ("lab", str(home / "xdg/fedhft/config.toml"))
    assert told["contexts"][0]["tls_authority"] == str(Path("ca.crt").absolute())
    assert json.loads(ok("current", "-o", "json", FEDHFT_CONTEXT="clinics"))["server"] == "agg:50051"
    assert stat.S_IMODE((home / "xdg/fedhft/config.toml").stat().st_mode) == 0o600


def test_setting_again_changes_what_is_given_and_an_empty_value_removes() -> None:
    ok("set", "a", "--admin-server", "one:1", "--tls-authority", "/ca.crt")
    ok("set", "a", "--admin-server", "two:2")
    assert read_contexts().known["a"] == Context(admin_server="two:2", tls_authority="/ca.crt")
    ok("set", "a", "--tls-authority", "")
    assert read_contexts().known["a"] == Context(admin_server="two:2")
    ok("remove", "a")
    assert (read_contexts().known, read_contexts().current) == ({}, None)
    assert "none is in use" in refused("current")


@pytest.mark.parametrize("value", ['a "quoted" \\ path', "ünïcode ☃ 𝒳", "tab\tand\x7fdelete"])
def test_any_text_survives_the_file(value: str) -> None:
    ok("set", "a", "--tls-key", f"/{value}")
    assert read_contexts().known["a"].tls_key == f"/{value}"


def test_wrong_names_and_addresses_are_refused_with_the_nearest_known_one() -> None:
    ok("set", "clinics", "--admin-server", "agg:50053")
    assert "did you mean clinics?" in refused("use", "clinic")
    assert "known: clinics" in refused("use", "q")
    assert "is not a name" in refused("set", "a b")
    assert "--admin-server = 'nowhere': is not an address" in refused("set", "a", "--admin-server", "nowhere")
    done = run_cli("job", "list", "--context", "clinisc")
    assert (done.returncode, "did you mean clinics?" in done.stderr) == (14, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("current = 'gone'", "context = 'gone': is not in the list"),
        ("curent = 'a'", "curent is an unknown key; did you mean current?"),
        ("[contexts.a]\nadmin-server = 'x:1'", "admin-server is an unknown key; did you mean admin_server?"),
        ("[contexts.a]\nserver = 5", "a context is a table of texts"),
        ("contexts = 5", "contexts is a table"),
        ("current = ", "is not TOML"),
    ],
)
def test_a_damaged_file_is_refused_by_name(home: Path, text: str, said: str) -> None:
    file = home / "xdg/fedhft/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    for arguments in (["config", "list"], ["job", "list"]):
        done = run_cli(*arguments)
        assert done.returncode == 14
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_options_and_variables_win_over_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(**given: object) -> str:
        with ServerOptions(**given).client() as client:  # type: ignore[arg-type]
            return client.server

    assert reached() == DEFAULT_SERVER
    ok("set", "a", "--admin-server", "one:1")
    ok("set", "b", "--admin-server", "two:2")
    assert reached() == "one:1"
    assert reached(context="b") == "two:2"
    assert reached(context="b", server="three:3") == "three:3"
    done = run_cli("job", "list", FEDHFT_CONTEXT="gone")
    assert "context = 'gone'" in done.stderr
    done = run_cli("job", "list", "--server", "three", FEDHFT_CONTEXT="b")
    assert "--server = 'three'" in done.stderr


def test_tls_files_come_from_the_context(home: Path) -> None:
    ok("set", "a", "--admin-server", "127.0.0.1:1", "--tls-authority", str(home / "no-such-ca.crt"))
    done = run_cli("job", "list")
    assert (done.returncode, str(home / "no-such-ca.crt") in done.stderr) == (14, True)
    ok("set", "a", "--tls-authority", "", "--tls-key", "/k.pem")
    assert "give both files or neither" in run_cli("job", "list").stderr


def test_without_a_home_commands_work_and_contexts_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # a random uid of a container: no entry in passwd
    assert chosen_context(None) == Context()
    for arguments in (["list"], ["set", "a", "--admin-server", "a:1"], ["current"]):
        assert "this user has no home directory" in refused(*arguments)
    done = run_cli("job", "list", "--context", "a")
    assert (done.returncode, "set XDG_CONFIG_HOME" in done.stderr) == (14, True)
    monkeypatch.setattr(JobsClient, "list", lambda asked: [])
    done = run_cli("job", "list", "--server", "127.0.0.1:1")
    assert (done.returncode, "no jobs yet" in done.stdout) == (0, True)


def test_a_folder_that_cannot_be_written_is_refused_in_words(home: Path) -> None:
    (home / "xdg").write_text("a file where a folder should be")
    assert "cannot be written" in refused("set", "a", "--admin-server", "a:1")
    assert chosen_context(None) == Context()


def test_a_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    ok("set", "a", "--admin-server", "a:1")
    assert (tmp_path / ".config/fedhft/config.toml").is_file()


def test_refusals_have_the_code_of_a_wrong_argument() -> None:
    with pytest.raises(FedhftError) as caught:
        chosen_context("gone")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
