"""Settings as people give them: which source wins, what is refused and how, what --help says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from fedhft_aggregator.settings import AggregatorSettings
from fedhft_clusterer.settings import ClustererSettings

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.options import options_of, read_settings
from fedhft.process.program import run_program


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FEDHFT_")]:
        monkeypatch.delenv(name)


def read(*arguments: str) -> ClustererSettings:
    return read_settings(ClustererSettings, arguments)


def refused(*arguments: str) -> str:
    with pytest.raises(FedhftError) as caught:
        read_settings(AggregatorSettings, arguments)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.message


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        read(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_setting_comes_from_the_first_of_flag_variable_secret_file_and_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, secrets = tmp_path / "settings.toml", tmp_path / "secrets"
    secrets.mkdir()
    sources = ["--config", str(file), "--secrets-dir", str(secrets)]
    assert read().grace == 10.0
    file.write_text("grace = 1.5")
    assert read(*sources).grace == 1.5
    (secrets / "fedhft_grace").write_text("2\n")
    assert read(*sources).grace == 2.0
    monkeypatch.setenv("FEDHFT_GRACE", "3")
    assert read(*sources).grace == 3.0
    assert read(*sources, "--grace", "4").grace == 4.0


def test_the_earlier_name_of_config_still_works_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("grace = 2")
    assert read("--settings", str(file)).grace == 2.0
    monkeypatch.setenv("FEDHFT_SETTINGS", str(file))
    assert read().grace == 2.0
    other = tmp_path / "config.toml"
    other.write_text("grace = 3")
    monkeypatch.setenv("FEDHFT_CONFIG", str(other))
    assert read().grace == 3.0
    with pytest.raises(SystemExit):
        read("--help")
    assert "--settings" not in capsys.readouterr().out


def test_an_empty_variable_or_secret_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "")
    (tmp_path / "fedhft_grace").write_text("\n")
    settings = read("--secrets-dir", str(tmp_path))
    assert (settings.metrics_port, settings.grace) == (9102, 10.0)


def test_the_files_of_settings_and_secrets_can_be_named_by_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('listen = "127.0.0.1:7"\nmetrics_port = 8\nlog_level = "debug"\ntls_authority = "ca.pem"')
    (tmp_path / "fedhft_redis").write_text("redis://:secret@host:6379/0\n")
    (tmp_path / "other").write_text("is nobody's")
    monkeypatch.setenv("FEDHFT_CONFIG", str(file))
    monkeypatch.setenv("FEDHFT_SECRETS_DIR", str(tmp_path))
    settings = read()
    assert (settings.listen, settings.metrics_port, settings.log_level) == ("127.0.0.1:7", 8, "debug")
    assert settings.redis == "redis://:secret@host:6379/0"
    assert settings.tls is not None
    assert settings.tls.authority == Path("ca.pem")


def test_secrets_are_read_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "fedhft_redis").write_text("redis://mounted")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "fedhft_redis").symlink_to("..data/fedhft_redis")
    assert read("--secrets-dir", str(tmp_path)).redis == "redis://mounted"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'metrics_prot = 1\nredis = "x"',
            "metrics_prot is an unknown key; did you mean metrics_port? All are in fedhft_aggregator --help",
        ),
        ("qqq = 1", "qqq is an unknown key; see fedhft_aggregator --help"),
        ('secrets_dir = "x"', "secrets_dir is an unknown key"),
        ("metrics-port = 1", "metrics-port is an unknown key"),
        ("grace = ", "is not TOML"),
    ],
)
def test_a_wrong_settings_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    message = refused("--config", str(file))
    assert said in message
    assert message.startswith("--config = ")


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    assert "--config = 'nowhere.toml': cannot be read: No such file" in refused("--config", "nowhere.toml")
    assert "--secrets-dir = 'nowhere': is not a folder" in refused("--secrets-dir", "nowhere")
    (tmp_path / "fedhft_redis").mkdir()
    assert "fedhft_redis" in refused("--secrets-dir", str(tmp_path))
    (tmp_path / "outside").write_text("redis://outside")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "fedhft_redis").symlink_to(tmp_path / "outside")
    assert "resolves outside" in refused("--secrets-dir", str(inside))


@pytest.mark.parametrize("name", ["fedhft_reddis", "FEDHFT_REDDIS", "fedhft_secrets_dir", "fedhft_"])
def test_a_secret_that_is_no_setting_is_refused_by_its_name_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hunter2")
    message = refused("--secrets-dir", str(tmp_path))
    assert f"the file {name} is no setting of fedhft_aggregator; see fedhft_aggregator --help" in message
    assert "hunter2" not in message


def test_a_value_of_the_wrong_type_is_wrong_usage_and_says_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "--metrics-port = 'many': is not a whole number" in usage_error(capsys, "--metrics-port", "many")
    assert "invalid choice: 'xml'" in usage_error(capsys, "--log-format", "xml")
    file = tmp_path / "settings.toml"
    file.write_text('grace = "long"')
    assert f"{file}: grace = 'long': is not a number" in usage_error(capsys, "--config", str(file))
    (tmp_path / "fedhft_grace").write_text("hunter2")
    said = usage_error(capsys, "--secrets-dir", str(tmp_path))
    assert f"{tmp_path / 'fedhft_grace'}: is not a number" in said
    assert "hunter2" not in said
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "many")
    assert "FEDHFT_METRICS_PORT = 'many': is not a whole number" in usage_error(capsys)
    monkeypatch.delenv("FEDHFT_METRICS_PORT")
    monkeypatch.setenv("FEDHFT_LOG_FORMAT", "xml")
    assert "FEDHFT_LOG_FORMAT = 'xml': choose one of json, console" in usage_error(capsys)


@pytest.mark.parametrize("arguments", [["--nope"], ["--gra", "1"], ["stray"], ["--grace"]])
def test_an_unknown_flag_is_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert arguments[0] in usage_error(capsys, *arguments)


def test_a_variable_that_kubernetes_made_for_a_service_is_ignored_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "tcp://10.96.0.12:9101")
    assert read().metrics_port == ClustererSettings().metrics_port
    seen: list[AggregatorSettings] = []
    with mock.patch("fedhft.telemetry.logs.configure"):
        assert run_program(AggregatorSettings, lambda settings: seen.append(settings) or 0, []) == 0
    assert "Kubernetes set it" in caplog.text
    assert [record.variable for record in caplog.records if hasattr(record, "variable")] == ["FEDHFT_METRICS_PORT"]
    monkeypatch.setenv("FEDHFT_METRICS_PORT", "tcp")
    with pytest.raises(SystemExit):
        read()


def test_tls_files_make_tls_settings_and_half_a_pair_is_refused() -> None:
    assert read().tls is None
    tls = read("--tls-certificate", "c.pem", "--tls-key", "k.pem").tls
    assert tls is not None
    assert (tls.certificate, tls.key, tls.authority) == (Path("c.pem"), Path("k.pem"), None)
    assert "give both files or neither" in refused("--tls-certificate", "c.pem")


def test_the_address_of_the_clusterer_is_checked_at_the_door() -> None:
    assert "clusterer = 'nowhere': is not an address" in refused("--clusterer", "nowhere")
    assert read_settings(AggregatorSettings, []).clusterer == ""


def test_help_names_flag_variable_and_default_of_every_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "[default: redis://127.0.0.1:6379/0; FEDHFT_REDIS]" in shown
    assert "--log-format {json,console}" in shown
    for option in options_of(ClustererSettings):
        default = f"default: {option.default}; " if option.default else ""
        assert f"{option.description} [{default}{option.variable}]" in shown
    assert {option.name for option in options_of(ClustererSettings)} == set(ClustererSettings.model_fields)


def test_settings_made_directly_do_not_look_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHFT_GRACE", "3")
    assert ClustererSettings().grace == 10.0


@pytest.mark.parametrize(
    ("service", "light"),
    [
        ("fedhft_agent", {"torch", "transformers", "redis", "scipy", "sklearn", "numpy", "grpc"}),
        ("fedhft_aggregator", {"redis", "scipy", "numpy", "grpc"}),
        ("fedhft_clusterer", {"redis", "scipy", "numpy", "grpc"}),
    ],
)
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--nope"], 2)])
def test_help_and_a_wrong_flag_load_nothing_heavy(
    service: str, light: set[str], arguments: list[str], code: int
) -> None:
    program = (
        f"import sys; from {service}.__main__ import main\n"
        f"sys.argv = ['x', *{arguments!r}]\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert end.code == {code}, end.code\n"
        f"print('LOADED', sorted(set(sys.modules) & {light!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


@pytest.mark.parametrize(
    ("name", "wrong"), [("clusterer", "hunter2"), ("grace", "hunter2"), ("listen", ""), ("metrics_port", "hunter2")]
)
def test_a_wrong_secret_is_refused_by_its_file_and_never_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, wrong: str
) -> None:
    (tmp_path / f"fedhft_{name}").write_text(wrong)
    try:
        settings = read_settings(AggregatorSettings, ["--secrets-dir", str(tmp_path)])
    except FedhftError as error:
        said = error.message
    except SystemExit:
        said = capsys.readouterr().err
    else:
        assert not wrong  # an empty file is no secret
        assert settings.listen == "127.0.0.1:50051"
        return
    assert "hunter2" not in said
    assert f"fedhft_{name}" in said


@pytest.mark.parametrize("text", ["1.0", "1e3", "", "port"])
def test_a_port_is_a_whole_number(capsys: pytest.CaptureFixture[str], text: str) -> None:
    if text:
        assert "is not a whole number" in usage_error(capsys, "--metrics-port", text)
    assert read("--metrics-port", "07").metrics_port == 7
