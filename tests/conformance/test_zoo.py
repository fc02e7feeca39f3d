"""RL Baselines3 Zoo trains, resumes, plays and optimises a flow policy that a file of hyperparameters names."""

import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3 import PPO, SAC

from flowrl.policies import FlowActorCriticPolicy, FlowPolicy

pytest.importorskip("rl_zoo3", reason="RL Zoo is an extra: pip install -e '.[zoo]'")

HYPERPARAMETERS = """
Pendulum-v1:
  n_timesteps: 60
  policy: 'FlowPolicy'
  normalize: true
  policy_kwargs: "dict(flow='nsf', net_arch=[8])"
"""
OF_EACH = {
    "sac": "  learning_starts: 20\n  train_freq: 8\n  batch_size: 8\n",
    "ppo": "  n_steps: 30\n  batch_size: 30\n  n_epochs: 1\n",
}
COMMANDS = """
import sys
import rl_zoo3.enjoy, rl_zoo3.train

for command in sys.argv[1].split(";"):
    name, *sys.argv[1:] = command.split()
    print("COMMAND", command, flush=True)
    rl_zoo3.train.train() if name == "train" else rl_zoo3.enjoy.enjoy()
"""


def zoo(folder: Path, *commands: str) -> str:
    """The commands' outputs; they run one after the other in one process, since importing takes the most of it."""
    asked = [sys.executable, "-c", COMMANDS, ";".join(commands)]
    done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return done.stdout


def common(algorithm: str) -> str:
    return f"--algo {algorithm} --env Pendulum-v1 --gym-packages flowrl -f logs --device cpu --num-threads 1 --seed 0"


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_train_resume_and_enjoy(algorithm, tmp_path):
    (tmp_path / "flow.yml").write_text(HYPERPARAMETERS + OF_EACH[algorithm])
    train = f"train {common(algorithm)} -conf flow.yml"
    first = f"logs/{algorithm}/Pendulum-v1_1"
    said = zoo(
        tmp_path,
        f"{train} --save-freq 30 --eval-freq 30 --eval-episodes 1",
        f"{train} -i {first}/Pendulum-v1.zip",
        f"enjoy {common(algorithm)} -n 10 --no-render --exp-id 2",
    )
    cls, policy = {"sac": (SAC, FlowPolicy), "ppo": (PPO, FlowActorCriticPolicy)}[algorithm]
    model = cls.load(tmp_path / first / "best_model.zip", device="cpu")
    assert type(model.policy) is policy and model.policy.flow_spec["flow"] == "nsf"
    assert (tmp_path / first / "rl_model_60_steps.zip").exists()
    assert (tmp_path / f"logs/{algorithm}/Pendulum-v1_2/Pendulum-v1.zip").exists(), "the one that went on"
    assert "Loading pretrained agent" in said
    assert "Loading logs/" in said.partition("COMMAND enjoy")[2]


@pytest.mark.slow
def test_optimise(tmp_path):
    (tmp_path / "flow.yml").write_text(HYPERPARAMETERS + OF_EACH["sac"])
    trials = "-optimize --n-trials 2 --n-startup-trials 1 --n-evaluations 1 --sampler random --pruner none"
    zoo(tmp_path, f"train {common('sac')} -conf flow.yml {trials} --no-optim-plots")
    [table] = (tmp_path / "logs/sac").glob("report_Pendulum-v1_*.csv")
    assert table.read_text().count("COMPLETE") == 2
