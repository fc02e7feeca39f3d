"""``--set key=value``."""

import pytest
from gymnasium import spaces
from torch import nn

from agents import AGENTS, find_agent, hyperparameters
from experiments.training.errors import UsageError
from experiments.training.overrides import apply_overrides, check_flow_options, constructor_types

OBSERVATIONS = spaces.Box(-1, 1, (3,))


def override(agent, *overrides):
    agent = find_agent(agent)
    return apply_overrides(hyperparameters(agent.table, "Hopper"), overrides, agent, OBSERVATIONS)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("learning_rate=1", "learning_rate", 1),
        ("learning_rate=linear_1e-3_0", "learning_rate", "linear_1e-3_0"),
        ("ent_coef=auto_0.1", "ent_coef", "auto_0.1"),
        ("ent_coef=0.2", "ent_coef", 0.2),
        ("train_freq=(4,'step')", "train_freq", (4, "step")),
        ("normalize=True", "normalize", True),
        ("optimize_memory_usage=False", "optimize_memory_usage", False),
    ],
)
def test_values_are_read_as_python_reads_them(text, key, value):
    assert override("sac", text)[key] == value


@pytest.mark.parametrize(
    "text",
    [
        "batch_size=1.5",
        "batch_size=True",
        "learning_rate=fast",
        "learning_rate=linear_1e-3",
        "learning_rate=linear_0_1e-3",
        "learning_rate=linear_1e-3_-1",
        "normalize=1",
        "train_freq=[4]",
        "policy_kwargs.net_arch=['a']",
        "policy_kwargs.activation_fn=Rellu",
        "policy_kwargs.optimizer_class=Adam",
        "replay_buffer_class=ReplayBuffer",
        "replay_buffer_class=['HerReplayBuffer']",
    ],
)
def test_values_of_another_type_are_refused(text):
    with pytest.raises(UsageError, match="expected"):
        override("sac", text)


@pytest.mark.parametrize("text", ["{norm: layer, unit_norm: true}", "{'norm': 'layer', 'unit_norm': True}"])
def test_a_mapping_is_read_as_yaml_or_python_has_it(text):
    architecture = override("nfac", f"policy_kwargs.architecture={text}")["policy_kwargs"]["architecture"]
    assert architecture == dict(norm="layer", unit_norm=True)


def test_numbers_in_a_mapping_of_yaml_are_numbers():
    policy_kwargs = override("flow-sac", "policy_kwargs.flow_kwargs={context_gain: 1e-1}")["policy_kwargs"]
    assert policy_kwargs["flow_kwargs"] == dict(context_gain=0.1)


@pytest.mark.parametrize("text", ["{norm: [}", "{[1]: 2}"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(UsageError, match="expected dict"):
        override("nfac", f"policy_kwargs.architecture={text}")


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        ("sac", "batch_size=0"),
        ("sac", "train_freq=0"),
        ("sac", "train_freq=(0,'episode')"),
        ("sac", "gradient_steps=0"),
        ("sac", "learning_starts=-1"),
        ("sac", "tau=2"),
        ("sac", "learning_rate=1e999"),
        ("ppo", "n_steps=0"),
        ("ppo", "clip_range=0"),
        ("ppo", "policy_kwargs.net_arch={'pi':[8],'vf':[0]}"),
    ],
)
def test_numbers_that_no_training_can_use_are_refused(agent, text):
    with pytest.raises(UsageError, match="must be"):
        override(agent, text)
    assert override("sac", "gradient_steps=-1")["gradient_steps"] == -1


@pytest.mark.parametrize(
    ("flow", "options", "expected"),
    [
        ("nsf", {"bins": 8.0}, "flow_kwargs.bins=8.0: expected int, got float"),
        ("nsf", {"hidden": 64}, "flow_kwargs.hidden=64: expected"),
        ("nsf", {"hiden": [64]}, "nsf has no option 'hiden'; did you mean hidden"),
        ("affine", {"layers": 1}, "affine has no option 'layers'; valid names are conditioner_gain, context_gain"),
    ],
    ids=str,
)
def test_options_that_a_flow_does_not_have_are_refused(flow, options, expected):
    with pytest.raises(UsageError, match=expected):
        check_flow_options(flow, options)
    check_flow_options("nsf", {"bins": 4, "hidden": [8, 8], "bound": 3})


def test_dots_reach_into_policy_kwargs_and_nothing_else_changes():
    plain, changed = (
        override("flow-ppo"),
        override(
            "flow-ppo",
            "policy_kwargs.net_arch=dict(pi=[8],vf=[8])".replace("dict(pi=[8],vf=[8])", "{'pi':[8],'vf':[8]}"),
            "policy_kwargs.activation_fn=ReLU",
        ),
    )
    assert changed["policy_kwargs"] == {"net_arch": {"pi": [8], "vf": [8]}, "activation_fn": nn.ReLU}
    assert {k: v for k, v in plain.items() if k != "policy_kwargs"} == {
        k: v for k, v in changed.items() if k != "policy_kwargs"
    }
    assert hyperparameters("ppo", "Hopper")["policy_kwargs"] == plain["policy_kwargs"]


@pytest.mark.parametrize("agent", AGENTS)
def test_every_hyperparameter_of_the_tables_can_be_set(agent):
    agent = find_agent(agent)
    settable = {*constructor_types(agent.algorithm), "normalize", "policy_kwargs"}
    assert set(hyperparameters(agent.table, "HalfCheetah")) - {"steps", "n_envs"} <= settable
    policy = constructor_types(agent.policy_class(OBSERVATIONS))
    assert {"net_arch", "activation_fn"} <= set(policy) and ("flow" in policy) == agent.flow


@pytest.mark.parametrize("key", ["env", "seed", "device", "policy", "policy_kwargs.action_space", "steps"])
def test_what_the_run_decides_cannot_be_set(key):
    with pytest.raises(UsageError, match="unknown key"):
        override("sac", f"{key}=1")


@pytest.mark.parametrize(
    ("key", "hint"),
    [("n_envs", "give --num-envs"), ("flow", "give --flow"), ("net_arch", "policy_kwargs.net_arch"), ("gama", "gamma")],
)
def test_a_key_that_is_none_says_where_it_stands(key, hint):
    with pytest.raises(UsageError, match=f"--set {key}: unknown key; .*{hint}"):
        override("flow-sac", f"{key}=1")


def test_hindsight_needs_goals():
    with pytest.raises(UsageError, match="have no goals"):
        override("sac", "replay_buffer_class=HerReplayBuffer")


def test_dots_reach_into_options_of_the_flow_too():
    whole = override("flow-sac", "policy_kwargs.flow_kwargs={'bins':4}", "policy_kwargs.flow_kwargs.hidden=[8]")
    assert whole["policy_kwargs"]["flow_kwargs"] == dict(bins=4, hidden=[8])
    assert override("flow-sac", "policy_kwargs.flow_kwargs.bins=4")["policy_kwargs"]["flow_kwargs"] == dict(bins=4)
    for text in ("policy_kwargs.net_arch.pi=[8]", "gamma.x=1", "policy_kwargs.flow_kwargs.bins.x=1"):
        with pytest.raises(UsageError, match="unknown key"):
            override("flow-sac", text)
