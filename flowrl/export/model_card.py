"""The model card of a policy: what it is, what it reached, the command that made it, and how it is opened."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml


class Evaluation(NamedTuple):
    """
    What a policy reached.

    :param actions: ``"deterministic"`` or ``"sampled"``
    :param mean: of the episodes' returns
    :param std: their standard deviation
    :param episodes: how many
    :param step: of the training, of the model that was evaluated; None: not known
    """

    actions: str
    mean: float
    std: float
    episodes: int
    step: int | None = None


CARD = """---
{front_matter}---

# {name}

A normalizing-flow policy of the agent `{agent}` for `{environment}`, trained with flowrl, which makes flow policies for
Stable-Baselines3.
{results}
## How to use it

```python
import gymnasium as gym
from flowrl.export import from_hub

policy = from_hub("{name}")
env = gym.make({made})
observation, _ = env.reset(seed=0)
action, _ = policy.predict(observation, deterministic=True)
```

It takes observations as the environment gives them. The file `policy.safetensors` holds data alone: opening it runs no
code.
{provenance}{notes}"""


def model_card(
    *,
    name: str,
    environment: str,
    agent: str,
    environment_kwargs: Mapping[str, Any] | None = None,
    evaluations: Sequence[Evaluation] = (),
    command: str | None = None,
    learning_curve: str | None = None,
    notes: str = "",
) -> str:
    """
    :param name: of the model; on the Hub ``owner/name``
    :param environment: that it acts in, its id
    :param agent: the algorithm, or the name of the agent
    :param environment_kwargs: further arguments of ``gymnasium.make``
    :param evaluations: what it reached
    :param command: that made it, as it is typed
    :param learning_curve: name of the picture beside the card
    :param notes: more, in Markdown
    :return: Markdown, with the Hub's metadata in front of it
    """
    results = ""
    if evaluations:
        rows = [
            f"| {e.actions} | {e.mean:.1f} ± {e.std:.1f} | {e.episodes} | {'' if e.step is None else f'{e.step:,}'} |"
            for e in evaluations
        ]
        header = ["| actions | return, mean ± deviation | episodes | after steps |", "| --- | --- | --- | --- |"]
        results += "\n".join(["\n## Results\n", *header, *rows, ""])
    if learning_curve is not None:
        results += f"\n![Learning curve]({learning_curve})\n"
    options = ", ".join(f"{key}={value!r}" for key, value in (environment_kwargs or {}).items())
    task = f"{environment} ({options})" if options else environment
    return CARD.format(
        front_matter=yaml.safe_dump(front_matter(task, agent, evaluations), sort_keys=False, allow_unicode=True),
        made=f'"{environment}"' + (f", {options}" if options else ""),
        name=name,
        agent=agent,
        environment=environment,
        results=results,
        provenance="" if command is None else f"\n## How it was made\n\n```bash\n{command}\n```\n",
        notes=f"\n{notes.strip()}\n" if notes.strip() else "",
    )


def front_matter(environment: str, agent: str, evaluations: Sequence[Evaluation]) -> Mapping[str, Any]:
    """What the Hub reads of a card: by what it is found, and its results."""
    matter: dict[str, Any] = dict(
        library_name="flowrl",
        pipeline_tag="reinforcement-learning",
        tags=["reinforcement-learning", "normalizing-flows", "stable-baselines3", "flowrl", agent, environment],
    )
    if evaluations:
        results = [
            dict(
                task=dict(type="reinforcement-learning", name="reinforcement-learning"),
                dataset=dict(name=environment, type=environment),
                metrics=[
                    dict(type="mean_reward", name=f"return, {e.actions} actions", value=f"{e.mean:.2f} ± {e.std:.2f}")
                ],
            )
            for e in evaluations
        ]
        matter["model-index"] = [dict(name=agent, results=results)]
    return matter
