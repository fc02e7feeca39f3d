"""The Hugging Face Hub, without the network: what the card says, what is uploaded, what is opened."""

import sys

import huggingface_hub
import numpy as np
import pytest
import yaml
from stable_baselines3.common.torch_layers import FlattenExtractor

from flowrl.export import Evaluation, from_hub, push_to_hub, save_policy, write_model_folder
from tests.models import build_policy, observations

EVALUATIONS = [Evaluation("deterministic", -150.25, 80.5, 10, 10_000), Evaluation("sampled", -160.0, 90.0, 10)]
CARD = dict(environment="Pendulum-v1", agent="flow-sac", evaluations=EVALUATIONS, command="python experiments/run.py")


@pytest.fixture
def policy():
    return build_policy("SAC", features_extractor_class=FlattenExtractor)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"png")
    return path


def test_the_folder_has_the_policy_the_card_and_the_curve(policy, picture, tmp_path):
    folder = write_model_folder(policy, tmp_path / "model", name="me/pendulum", learning_curve=picture, **CARD)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "learning_curve.png", "policy.safetensors"]
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["library_name"] == "flowrl" and {"flow-sac", "Pendulum-v1"} <= set(matter["tags"])
    (model,) = matter["model-index"]
    assert model["name"] == "flow-sac"
    assert [result["metrics"][0]["value"] for result in model["results"]] == ["-150.25 ± 80.50", "-160.00 ± 90.00"]
    assert all(result["dataset"]["type"] == "Pendulum-v1" for result in model["results"])
    assert "| deterministic | -150.2 ± 80.5 | 10 | 10,000 |" in text and "| sampled | -160.0 ± 90.0 | 10 |  |" in text
    assert "python experiments/run.py" in text and "![Learning curve](learning_curve.png)" in text
    assert 'from_hub("me/pendulum")' in text
    huggingface_hub.ModelCard((folder / "README.md").read_text())  # reads what the Hub reads
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.eval_results


def test_a_card_without_results_says_nothing_of_them(policy, tmp_path):
    text = (write_model_folder(policy, tmp_path, name="p", environment="e", agent="a") / "README.md").read_text()
    assert "Results" not in text and "model-index" not in text and "How it was made" not in text


class Api:
    """Takes the place of huggingface_hub's HfApi, and keeps what it is told."""

    calls: list = []

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        from pathlib import Path

        self.calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_a_push_uploads_the_folder(policy, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    assert push_to_hub(policy, "me/pendulum", private=True, **CARD) == "https://huggingface.co/me/pendulum"
    assert Api.calls == [
        ("token", None),
        ("create", "me/pendulum", True, True),
        ("upload", "me/pendulum", ["README.md", "policy.safetensors"]),
    ]


def test_what_comes_from_the_hub_acts_as_what_went_there(policy, tmp_path, monkeypatch):
    path = save_policy(policy, tmp_path / "policy.safetensors")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename, revision, token: str(path))
    obs = observations(3).numpy()
    actions = [p.predict(obs, deterministic=True)[0] for p in (policy, from_hub("me/pendulum", device="cpu"))]
    np.testing.assert_array_equal(*actions)


def test_no_zip_is_opened_from_the_hub():
    with pytest.raises(ValueError, match="filename='best_model.zip'.*run code"):
        from_hub("me/pendulum", "best_model.zip")


def test_without_the_extra_the_error_names_it(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        push_to_hub(policy, "me/pendulum", environment="e", agent="a")


def test_the_card_makes_the_environment_that_the_policy_was_evaluated_in(policy, tmp_path):
    made = dict(environment="Pendulum-v1", environment_kwargs=dict(g=5.0, kind="dict"))
    reached = [Evaluation("sampled", 1.0, 1.0, 1)]
    write_model_folder(policy, tmp_path, name="me/it", agent="flow-sac", evaluations=reached, **made)
    card = (tmp_path / "README.md").read_text()
    assert "gym.make(\"Pendulum-v1\", g=5.0, kind='dict')" in card
    assert "type: Pendulum-v1 (g=5.0, kind='dict')" in card
