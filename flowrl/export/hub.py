"""The Hugging Face Hub: a policy as a safetensors file beside a model card."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from flowrl.export.model_card import Evaluation, model_card
from flowrl.export.safetensors import load_policy, save_policy

POLICY, CARD, CURVE = "policy.safetensors", "README.md", "learning_curve.png"


def write_model_folder(
    model: BaseAlgorithm | BasePolicy,
    folder: str | os.PathLike,
    *,
    name: str,
    environment: str,
    agent: str,
    environment_kwargs: Mapping[str, Any] | None = None,
    evaluations: Sequence[Evaluation] = (),
    command: str | None = None,
    learning_curve: str | os.PathLike | None = None,
    notes: str = "",
) -> Path:
    """
    Write what goes to the Hub: ``policy.safetensors``, ``README.md`` and, if there is one, the learning curve.

    :param model: a model or its policy, see :func:`flowrl.export.save_policy`
    :param folder: made if it is not there
    :param name: of the model, the card's title; on the Hub ``owner/name``
    :param environment: that it acts in, its id
    :param agent: the algorithm, or the name of the agent
    :param environment_kwargs: further arguments of ``gymnasium.make``
    :param evaluations: what it reached
    :param command: that made it, as it is typed
    :param learning_curve: a picture, PNG
    :param notes: more for the card, in Markdown
    :return: the folder
    :raises ValueError: see :func:`flowrl.export.save_policy`
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_policy(model, folder / POLICY)
    if learning_curve is not None:
        shutil.copyfile(learning_curve, folder / CURVE)
    card = model_card(
        name=name,
        environment=environment,
        agent=agent,
        environment_kwargs=environment_kwargs,
        evaluations=evaluations,
        command=command,
        learning_curve=None if learning_curve is None else CURVE,
        notes=notes,
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    return folder


def push_to_hub(
    model: BaseAlgorithm | BasePolicy,
    repo_id: str,
    *,
    environment: str,
    agent: str,
    private: bool = False,
    token: str | None = None,
    **card: Any,
) -> str:
    """
    Upload a policy and its model card, by the account that ``hf auth login`` knows.

    :param model: a model or its policy
    :param repo_id: ``owner/name``, made if it is not there
    :param environment: that it acts in, its id
    :param agent: the algorithm, or the name of the agent
    :param private: whether a new repository is
    :param token: of another account
    :param card: further arguments of :func:`write_model_folder`: evaluations, command, learning_curve, notes, ...
    :return: where it is
    :raises ImportError: where huggingface_hub is not installed
    :raises ValueError: see :func:`flowrl.export.save_policy`
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as folder:
        write_model_folder(model, folder, name=repo_id, environment=environment, agent=agent, **card)
        return upload_folder(hub.HfApi(token=token), folder, repo_id, private)


def upload_folder(api: Any, folder: str | os.PathLike, repo_id: str, private: bool = False) -> str:
    """
    :param api: huggingface_hub's `HfApi`
    :param folder: of :func:`write_model_folder`
    :param repo_id: ``owner/name``, made if it is not there
    :param private: whether a new repository is
    :return: where it is
    """
    api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=os.fspath(folder),
        allow_patterns=[POLICY, CARD, CURVE],
        commit_message="Upload a flowrl policy",
    )
    return f"https://huggingface.co/{repo_id}"


def from_hub(
    repo_id: str, filename: str = POLICY, revision: str | None = None, device: str = "auto", token: str | None = None
) -> BasePolicy:
    """
    Open a policy from the Hub: its safetensors file, never a zip of Stable-Baselines3, which would run code.

    :param repo_id: ``owner/name``
    :param filename: of the policy in there
    :param revision: branch, tag or commit
    :param device: where the policy shall live
    :param token: of an account, for private repositories
    :return: the policy
    :raises ImportError: where huggingface_hub is not installed
    :raises ValueError: for another kind of file, or see :func:`flowrl.export.load_policy`
    """
    if not filename.endswith(".safetensors"):
        raise ValueError(
            f"filename={filename!r}: from_hub opens *.safetensors alone. A zip of Stable-Baselines3 holds pickles, "
            "which run code when they are opened; ask its author for the file that flowrl.export.save_policy writes."
        )
    return load_policy(_hub().hf_hub_download(repo_id, filename, revision=revision, token=token), device)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("The Hugging Face Hub needs huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub
