"""`run.py --config` and `--track`: a file stands for words that could be typed; scalars go where they are asked to."""

import sys
import types

import pytest
import yaml

from experiments.run import main, parse_arguments
from experiments.training.config_file import words_of
from experiments.training.run_directory import RunDirectory

FILE = """
env: Pendulum
agent: flow-sac
steps: 100
eval-every: 0
no_progress: true
plain: false
set:
  learning_starts: 50
  policy_kwargs.net_arch: [16, 16]
"""


def test_what_is_typed_comes_after_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE)
    arguments = parse_arguments(["--config", str(path), "--steps", "120", "--set", "learning_starts=60"])
    assert (arguments.env, arguments.steps, arguments.eval_every, arguments.plain) == ("Pendulum", 120, 0, None)
    assert arguments.set == ["learning_starts=50", "policy_kwargs.net_arch=[16, 16]", "learning_starts=60"]
    assert main(["--config", str(path), "--set", "learning_starts=60", "--logdir", str(tmp_path)]) == 0
    (run,) = tmp_path.glob("*/*/*")
    config = RunDirectory.open(run).config
    assert config["hyperparameters"]["learning_starts"] == 60 and config["steps"] == 100
    assert config["hyperparameters"]["policy_kwargs"]["net_arch"] == [16, 16]


def test_the_policy_s_settings_may_be_a_mapping():
    written = dict(set=dict(policy_kwargs=dict(net_arch=[8, 8], flow_kwargs=dict(layers=3)), tau=0.01))
    keys = ["policy_kwargs.net_arch=[8, 8]", "policy_kwargs.flow_kwargs={'layers': 3}", "tau=0.01"]
    assert words_of(written)[1::2] == keys


def test_numbers_in_a_mapping_are_numbers_however_they_are_written():
    content = yaml.safe_load(
        "{tau: 5e-3, policy_kwargs: {flow_kwargs: {context_gain: 1e-1}, optimizer_kwargs: {betas: [9e-1, 1.e0]}}}"
    )
    keys = ["tau=5e-3", "policy_kwargs.flow_kwargs={'context_gain': 0.1}"]
    keys.append("policy_kwargs.optimizer_kwargs={'betas': [0.9, 1.0]}")
    assert words_of(dict(set=content))[1::2] == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- env\n", "must be a mapping"),
        ("env: [\n", "not valid YAML"),
        ("enw: Pendulum\n", "did you mean env"),
        ("env: Pendulum\nset: 3\n", "set must be a mapping"),
        (None, "cannot be read"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, capsys, text, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["--config", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_options_as_words():
    options = dict(env="Hopper", plain=True, flow=None, set=dict(max_grad_norm=None), env_set={"a": (1, 2)})
    words = ["--env", "Hopper", "--plain", "--set", "max_grad_norm=None", "--env-set", "a=(1, 2)"]
    assert words_of(options) == words


class Tracker(types.ModuleType):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__("tracker")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        self.started.append(arguments)

    def log(self, scalars, step):
        self.logged.append((step, scalars))

    def finish(self):
        self.finished += 1


def test_scalars_are_tracked(tmp_path, monkeypatch, capsys):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    (tmp_path / "run.yaml").write_text(FILE)
    command = ["--config", str(tmp_path / "run.yaml"), "--logdir", str(tmp_path)]
    assert main([*command, "--checkpoint-every", "50", "--track", "trackio"]) == 0
    (started,) = tracker.started
    assert started["project"] == "flowrl" and started["config"]["seed"] == 0 and "seed0_" in started["name"]
    assert len(started["config"]["sessions"]) == 1
    assert tracker.finished == 1 and tracker.logged[-1][0] == 100
    names = {name for _, scalars in tracker.logged for name in scalars}
    assert {"train/actor_loss", "flow/entropy"} <= names and "flow/action_density" not in names
    assert all(type(value) is float for _, scalars in tracker.logged for value in scalars.values())

    monkeypatch.setitem(sys.modules, "wandb", None)
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    (checkpoint,) = tmp_path.glob("*/*/*/checkpoints/step_50")
    for words in (command, ["--resume", str(checkpoint)]):
        assert main([*words, "--track", "wandb"]) == 2
    assert {path: path.stat().st_mtime for path in tmp_path.rglob("*")} == before, "nothing is written"
    assert "pip install wandb" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_resumed_run_is_the_same_run_there(tmp_path, monkeypatch, name):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, name, tracker)
    (tmp_path / "run.yaml").write_text(FILE)
    assert main(["--config", str(tmp_path / "run.yaml"), "--logdir", str(tmp_path), "--track", name]) == 0
    (config,) = tmp_path.glob("*/*/*/config.json")
    assert main(["--resume", str(config.parent), "--steps", "150", "--no-progress"]) == 0
    first, second = tracker.started
    assert first["resume"] == second["resume"] == "allow" and first["name"] == second["name"]
    assert first.get("id") == second.get("id") and ("id" in first) == (name == "wandb")
    assert tracker.logged[-1][0] == 150
    assert main(["--config", str(tmp_path / "run.yaml"), "--logdir", str(tmp_path / "other"), "--track", name]) == 0
    assert any(tracker.started[-1].get(key) != first.get(key) for key in ("name", "id")), (
        "another run, in the same second"
    )
