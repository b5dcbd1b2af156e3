"""What an agent is told at its start."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from fedhft_agent.owner_rules import OwnerRules
from fedhft_agent.settings import AgentSettings

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.options import read_settings

REQUIRED = ["--server", "host:1", "--client", "c", "--data", "d.jsonl"]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FEDHFT_")]:
        monkeypatch.delenv(name)


def read(*arguments: str) -> AgentSettings:
    return read_settings(AgentSettings, [*REQUIRED, *arguments])


def refused(*arguments: str) -> str:
    with pytest.raises(FedhftError) as caught:
        read(*arguments)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.message


def test_flags_win_over_the_environment_and_the_environment_over_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {
        "FEDHFT_MEMORY": "1GiB",
        "FEDHFT_TIER": "small",
        "FEDHFT_ONCE": "true",
        "XDG_STATE_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    settings = read("--memory", "512 MiB")
    assert settings.memory == 512 * 2**20
    assert settings.tier == "small"
    assert settings.once
    assert settings.state_folder == tmp_path / "fedhft" / "c"
    assert settings.metrics_port is None
    assert settings.give_up_after_s is None


def test_a_file_can_hold_an_agents_settings_as_numbers_or_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'memory = "2GiB"\nthreads = 1\nmetrics_port = 0\ngive_up_after = "2m"\nonce = true\njob = "j"\nstate_dir = "s"'
    )
    settings = read("--config", str(file))
    assert (settings.memory, settings.threads, settings.metrics_port) == (2**31, 1, 0)
    assert (settings.give_up_after_s, settings.once, settings.job) == (120.0, True, "j")
    assert settings.state_folder == Path("s")
    file.write_text("client = 5\nthreads = 1.5")
    assert refused("--config", str(file)).startswith("--threads = 1.5: is not in range")


def test_without_a_home_directory_the_state_directory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert read("--state-dir", "s").state_folder == Path("s")
    settings = read()
    with pytest.raises(FedhftError, match="this user has no home directory to keep it in; set --state-dir"):
        _ = settings.state_folder


def test_an_owners_rules_come_as_words_or_as_a_list_and_without_any_nothing_is_bounded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert read().rules == OwnerRules()
    file = tmp_path / "agent.toml"
    file.write_text('allow_jobs = ["a-*", "b"]\nallow_operators = "ops, other"\nmost_rank = 8\nlargest_share = 0.5')
    monkeypatch.setenv("FEDHFT_ALLOW_ENCODINGS", "int8,bf16")
    rules = read("--config", str(file), "--most-epochs", "1.5", "--least-updates", "3").rules
    assert (rules.allow_jobs, rules.allow_operators) == (("a-*", "b"), ("ops", "other"))
    assert (rules.allow_encodings, rules.most_rank, rules.largest_share) == (("int8", "bf16"), 8, 0.5)
    assert (rules.most_epochs, rules.least_updates) == (1.5, 3)
    assert read("--config", str(file), "--allow-jobs", "").rules.allow_jobs == ()
    file.write_text("allow_jobs = 5")
    assert "--allow-jobs: 5 is neither text nor a list" in refused("--config", str(file))


def test_the_example_of_an_owners_rules_is_a_settings_file_in_which_every_rule_is_set() -> None:
    rules = read("--config", str(Path(__file__).parent.parent.parent / "examples/owner.toml")).rules
    unset = [field.name for field in dataclasses.fields(OwnerRules) if not getattr(rules, field.name)]
    assert unset == []


def test_an_empty_flag_takes_back_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "9103")
    monkeypatch.setenv("FEDHFT_HOLDOUT", "h.jsonl")
    monkeypatch.setenv("FEDHFT_JOB", "j")
    settings = read("--metrics-port", "", "--holdout", "", "--job", "", "--give-up-after", "0s", "--state-dir", "")
    assert (settings.metrics_port, settings.holdout, settings.job) == (None, None, None)
    assert (settings.give_up_after_s, settings.state_dir) == (None, None)


@pytest.mark.parametrize("name", ["server", "client", "data"])
def test_what_is_required_is_refused_when_it_is_empty_or_missing(name: str) -> None:
    said = f"--{name} = '': is required; give it, or set FEDHFT_{name.upper()}"
    assert refused(f"--{name}", "") == said
    others = [word for flag, word in zip(REQUIRED[::2], REQUIRED[1::2], strict=True) if flag != f"--{name}"]
    flags = [flag for flag in REQUIRED[::2] if flag != f"--{name}"]
    with pytest.raises(FedhftError) as caught:
        read_settings(AgentSettings, [part for pair in zip(flags, others, strict=True) for part in pair])
    assert caught.value.message == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--client", "Not An Id"], "client = 'Not An Id': is not a valid id"),
        (["--job", "Not An Id"], "job = 'Not An Id': is not a valid id"),
        (["--memory", "lots"], "--memory: 'lots' is not a size"),
        (["--give-up-after", "soon"], "--give-up-after: 'soon' is not a duration"),
        (["--threads", "-1"], "--threads = '-1': is not in range; write a whole number from 0 to 4096"),
        (["--threads", "4097"], "--threads = '4097': is not in range"),
        (["--largest-share", "1.5"], "--largest-share = '1.5': is not in range; write a number above 0, up to 1"),
        (["--most-epochs", "nan"], "--most-epochs = 'nan': is not in range"),
        (["--threads", "few"], "--threads = 'few': is not in range"),
        (["--metrics-port", "65536"], "--metrics-port = '65536': is not in range"),
        (["--tls-key", "key.pem"], "TLS: a certificate and its key go together"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)
