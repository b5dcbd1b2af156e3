"""The command line without a server: light, honest about errors, JSON where asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from fedhft.cli.demo import parse_clusters, parse_densities, parse_partition
from fedhft.cli.job_views import print_job
from fedhft.errors import ErrorCode, FedhftError
from fedhft.jobs.messages import as_dict
from fedhft.training.digest import base_digest
from fedhft.v1 import jobs_pb2
from tests.cli_runner import run_cli as fedhft
from tests.demo_jobs import finished_job, spec_of
from tests.models import tiny_model

HEAVY = {"torch", "transformers", "redis", "sklearn", "scipy", "numpy", "grpc", "matplotlib", "fedhft.job"}
JOB = """
name = "first"
[model]
name = "some/model"
[task]
labels = ["no", "yes"]
"""


def fedhft_process(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedhft.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("arguments", [["--help"], ["job", "--help"], ["demo", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom fedhft.cli.main import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('LOADED', sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


def test_every_command_that_the_documents_name_is_there() -> None:
    top = fedhft_process("--help").stdout
    assert all(name in top for name in ("demo", "simulate", "aggregator", "clusterer", "agent", "job", "model"))
    jobs = fedhft("job", "--help").stdout
    assert all(name in jobs for name in ("submit", "list", "get", "watch", "clusters", "cancel", "export", "schema"))


@pytest.mark.parametrize("command", ["submit", "list", "get", "watch", "clusters", "cancel", "export"])
def test_every_command_that_asks_an_aggregator_says_how_to_reach_it(command: str) -> None:
    shown = fedhft("job", command, "--help").stdout
    for text in (
        "--server",
        "FEDHFT_ADMIN_SERVER",
        "--tls-authority",
        "--tls-certificate",
        "--tls-key",
        "--context",
        "--output",
    ):
        assert text in shown


def test_half_a_tls_pair_is_refused_by_every_command_and_comes_from_the_environment_too() -> None:
    done = fedhft("job", "list", FEDHFT_TLS_KEY="key.pem")
    assert done.returncode == ErrorCodeExit.INVALID_ARGUMENT
    assert "give both files or neither" in done.stderr


def test_job_schema_prints_a_json_schema_that_accepts_the_example() -> None:
    done = fedhft("job", "schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    described = [name for name, field in schema["properties"].items() if field.get("description")]
    assert set(described) == set(schema["properties"])
    job = tomllib.loads((Path(__file__).parents[2] / "examples" / "job.toml").read_text(encoding="utf-8"))
    accepts = jsonschema.Draft202012Validator(schema).is_valid
    assert accepts(job)
    assert accepts(job | {"method": "fedit", "rounds": {"deadline": "1h30m"}, "limits": {"update_bytes": "512 MiB"}})
    assert accepts(job | {"rounds": {"deadline": 90.5}, "limits": {"update_bytes": 1000}})
    for wrong in ({"rounds": {"deadline": "soon"}}, {"limits": {"update_bytes": "2 apples"}}, {"method": "fedit2"}):
        assert not accepts(job | wrong)


def test_model_digest_prints_what_agents_compute(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    done = fedhft("model", "digest", str(path), "--format", "json")
    assert json.loads(done.stdout)["digest"] == base_digest(path)
    assert base_digest(path) in fedhft("model", "digest", str(path)).stdout


def test_a_refusal_is_one_message_on_standard_error_and_its_own_exit_code(tmp_path: Path) -> None:
    done = fedhft("model", "digest", str(tmp_path))
    assert (done.returncode, done.stdout) == (ErrorCodeExit.INVALID_MODEL, "")
    assert done.stderr.startswith("fedhft: model ")
    assert "Traceback" not in done.stderr


class ErrorCodeExit:
    """Exit codes as documented; written out so that a change of the table is noticed."""

    INVALID_JOB = 10
    INVALID_ARGUMENT = 14
    INVALID_DATA = 15
    INVALID_MODEL = 16
    SERVER_UNAVAILABLE = 40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (JOB + "\n[rounds]\nspeed = 3\n", "rounds.speed: unknown key"),
        (JOB.replace("first", "Not An Id"), "job = 'Not An Id'"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_bad_job_file_is_refused_before_any_server_is_asked(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    done = fedhft("job", "submit", str(file), "--server", "127.0.0.1:1")
    assert done.returncode == ErrorCodeExit.INVALID_JOB
    assert said in done.stderr


def test_a_server_that_is_away_has_its_own_exit_code() -> None:
    done = fedhft("job", "list", "--server", "127.0.0.1:1")
    assert done.returncode == ErrorCodeExit.SERVER_UNAVAILABLE
    assert "does not answer" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--method", "magic"], ErrorCodeExit.INVALID_ARGUMENT, "method = 'magic'"),
        (["--partition", "odd"], ErrorCodeExit.INVALID_ARGUMENT, "partition = 'odd'"),
        (["--tiers", "1.0,much"], ErrorCodeExit.INVALID_ARGUMENT, "tiers = '1.0,much'"),
        (["--clusters", "few"], ErrorCodeExit.INVALID_ARGUMENT, "clusters = 'few'"),
        (["--data", "nowhere"], ErrorCodeExit.INVALID_DATA, "data = 'nowhere'"),
        (["--model", "./nowhere"], ErrorCodeExit.INVALID_MODEL, "model = './nowhere'"),
        (["--set", "wire.up=fp8"], ErrorCodeExit.INVALID_JOB, "wire.up = 'fp8'"),
    ],
)
def test_a_demo_that_cannot_work_starts_nothing(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = fedhft("demo", "--out", str(tmp_path / "out"), "--format", "json", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (tmp_path / "out" / "fedhft").exists()


def test_service_commands_pass_their_arguments_and_exit_codes_through() -> None:
    assert "--clusterer" in fedhft_process("aggregator", "--help").stdout
    assert "--redis" in fedhft_process("clusterer", "--help").stdout
    done = fedhft_process("agent", "--server", "nonsense", "--client", "x", "--data", "x")
    assert done.returncode == ErrorCodeExit.INVALID_ARGUMENT
    assert done.stderr.startswith("fedhft_agent: --server = 'nonsense'")


def test_the_clusterer_starts_where_there_is_no_scikit_learn() -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None  # as if it were not installed\n"
        "from fedhft.cli.main import main; sys.exit(main(['clusterer', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--redis" in done.stdout


def test_options_are_parsed_at_the_door() -> None:
    assert parse_densities("1.0, 0.5") == (1.0, 0.5)
    assert (parse_clusters(""), parse_clusters("auto"), parse_clusters("3")) == (None, "auto", 3)
    assert parse_partition("groups").value == "groups"
    with pytest.raises(FedhftError) as caught:
        parse_clusters("0")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_messages_become_json_with_numbers_as_numbers_and_absent_scores_as_null() -> None:
    told = as_dict(finished_job(spec_of()))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["history"][0]["socket_bytes_up"] == 1000
    assert told["final"]["personal_before_mean"] == pytest.approx(0.6)
    assert told["memberships"]["rows"][0] == {"client": "a-1", "weights": [1.0, 0.0]}
    bare = as_dict(jobs_pb2.Job(history=[jobs_pb2.RoundSummary(shared_before=float("nan"))]))
    assert bare["final"] is None
    assert bare["history"][0]["shared_before"] is None
    assert bare["history"][0]["shared_after"] is None


def test_answers_about_a_long_job_show_people_its_last_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs_pb2.Job(job="long", status="cancelled", rounds_done=60, history_from=1)
    job.history.extend(jobs_pb2.RoundSummary(round=number) for number in range(11, 61))
    print_job(job)
    shown = capsys.readouterr().out.splitlines()
    assert "rounds 1 to 40 are not shown; `fedhft job get long --rounds 0` shows all that are kept" in shown
    assert [line.split()[0] for line in shown if line.strip()[:1].isdigit()] == [str(n) for n in range(41, 61)]


def test_the_version_is_told_to_people_and_to_programs() -> None:
    told = json.loads(fedhft("version", "--json").stdout)
    assert told == json.loads(fedhft("version", "-o", "json").stdout)
    assert set(told) == {"version", "protocol", "python"}
    assert fedhft("version", "-o", "name").stdout.strip() == told["version"]
    assert f"fedhft {told['version']}, protocol {told['protocol']}" in fedhft("version").stdout


def test_output_has_an_earlier_name_that_is_not_shown() -> None:
    assert fedhft("version", "--format", "json").stdout == fedhft("version", "-o", "json").stdout
    assert fedhft("version", "--format=json").stdout == fedhft("version", "--output=json").stdout
    assert "--format" not in fedhft("version", "--help").stdout
    assert fedhft("version", "-o", "xml").returncode == 2


def test_yaml_says_the_same_as_json_and_without_a_library_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    assert yaml.safe_load(fedhft("version", "-o", "yaml").stdout) == json.loads(fedhft("version", "-o", "json").stdout)
    monkeypatch.setitem(sys.modules, "yaml", None)  # as if it were not installed
    done = fedhft("version", "-o", "yaml")
    assert done.returncode == ErrorCodeExit.INVALID_ARGUMENT
    assert "pip install pyyaml" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fedhft jo", "job"),
        ("fedhft job ev", "events"),
        ("fedhft job list --sta", "--status"),
        ("fedhft conf", "config"),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, expected: str) -> None:
    place = str(len(words.split()) - 1)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'fedhft'; from fedhft.cli.main import main; main()"],
        env={**os.environ, "_FEDHFT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert expected in done.stdout.split(), done


def test_an_agent_takes_the_server_of_a_named_context_and_never_of_the_one_in_use(tmp_path: Path) -> None:
    def tried(**variables: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDHFT_")}
        done = subprocess.run(
            [sys.executable, "-m", "fedhft.cli", "agent", "--client", "a", "--data", "gone.jsonl",
             "--give-up-after", "1s", "--state-dir", str(tmp_path / "state")],
            env={**inherited, "XDG_CONFIG_HOME": str(tmp_path), **variables},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.stderr

    assert fedhft("config", "set", "site", "--server", "127.0.0.1:1", XDG_CONFIG_HOME=str(tmp_path)).returncode == 0
    assert "server is required" in tried() or "--server" in tried()
    assert "127.0.0.1:1" in tried(FEDHFT_CONTEXT="site")
    assert "context = 'sight'" in tried(FEDHFT_CONTEXT="sight")
