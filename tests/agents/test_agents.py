"""The named agents: a flow agent and its Gaussian twin differ in the policy and in nothing else."""

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from agents import (
    AGENTS,
    PPO,
    PPO_DEFAULTS,
    SAC,
    SAC_DEFAULTS,
    find_agent,
    hyperparameters,
    make_agent,
    model_arguments,
)
from flowrl.policies import ActionDensity

ENVIRONMENTS = """HalfCheetah Hopper Walker2d Ant Humanoid Swimmer Reacher Pusher InvertedPendulum
    InvertedDoublePendulum Pendulum BipedalWalker LunarLanderContinuous MountainCarContinuous""".split()
OBSERVATIONS = {
    "Policy": spaces.Box(-1, 1, (3,)),
    "CnnPolicy": spaces.Box(0, 255, (36, 36, 3), "uint8"),
    "MultiInputPolicy": spaces.Dict(a=spaces.Box(-1, 1, (3,))),
}


@pytest.mark.parametrize("table", [SAC, PPO], ids=["sac", "ppo"])
def test_the_tables_cover_the_same_environments(table):
    assert list(table)[: len(ENVIRONMENTS)] == ENVIRONMENTS


def test_an_environment_without_an_entry_gets_the_defaults():
    assert hyperparameters("sac", "Unheard") == SAC_DEFAULTS
    assert hyperparameters("ppo", "Unheard") == PPO_DEFAULTS


def test_changing_hyperparameters_changes_no_table():
    hyperparameters("sac", "Ant")["policy_kwargs"]["net_arch"].append(1)
    assert hyperparameters("sac", "Ant")["policy_kwargs"]["net_arch"] == [256, 256]


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_every_entry_is_accepted_by_its_algorithm(algorithm):
    for environment in ENVIRONMENTS:
        settings = hyperparameters(algorithm, environment)
        assert settings.pop("steps") >= 10_000 and isinstance(settings.pop("normalize"), bool)
        settings |= {"buffer_size": 10} if algorithm == "sac" else {}
        model = make_agent(algorithm, make_vec_env("Pendulum-v1", n_envs=settings.pop("n_envs")), settings)
        if algorithm == "ppo":
            assert model.n_steps * model.n_envs % model.batch_size == 0, f"{environment}: a truncated minibatch"


def test_each_agent_has_the_flow_of_its_policy_and_a_row_may_name_another():
    flows = {name: agent.default_flow for name, agent in AGENTS.items()}
    assert flows == dict.fromkeys(("sac", "ppo", "bc")) | {
        **dict.fromkeys(("flow-sac", "flow-bc", "nfac", "snf"), "triangular"),
        "flow-ppo": "affine",
        "nfq": "nsf",
    }
    of_several_modes = {"HiddenGoal", "Corridor", "TwoGoodActions", "Obstacle", "EnergyBandit", "MultiGoal"}
    assert {name for name, row in PPO.items() if "flow" in row} == of_several_modes
    assert "flow" not in model_arguments(hyperparameters("ppo", "Corridor"))


@pytest.mark.parametrize("name", ["EnergyBandit", "HiddenGoal", "MultiGoal", "Corridor", "NoisyLQR"])
def test_nfac_is_at_the_temperature_at_which_the_best_policy_is_known(name):
    settings = hyperparameters("nfac", name)
    assert settings["ent_coef"] == hyperparameters("sac", name)["ent_coef"] and not settings["scale_rewards"]
    env = gym.make(f"flowrl/{name}-v0")
    env.reset(seed=0)
    env.action_space.seed(0)
    total, discount, over = 0.0, 1.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        total, discount, over = total + discount * reward, discount * settings["gamma"], terminated or truncated
    assert abs(total) < settings["policy_kwargs"]["critic_kwargs"]["bound"], "its critics know the returns"


@pytest.mark.parametrize("base", ["ppo", "a2c", "trpo"])
def test_snf_takes_the_hyperparameters_of_its_base(base):
    for environment in ENVIRONMENTS:
        settings = hyperparameters(base, environment)
        assert settings.pop("steps") >= 10_000 and isinstance(settings.pop("normalize"), bool)
        model = make_agent("snf", make_vec_env("Pendulum-v1", n_envs=settings.pop("n_envs")), settings | {"base": base})
        assert model.base == base and model.gamma == settings["gamma"]


@pytest.mark.parametrize("name", [name for name in AGENTS if name != "snf"])
def test_no_other_agent_has_a_base(name):
    with pytest.raises(ValueError, match=f"base='ppo': {name} is on no other algorithm; the agent snf is"):
        make_agent(name, make_vec_env("Pendulum-v1"), dict(base="ppo", n_steps=32, batch_size=16))


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_flow_agent_and_its_baseline_share_everything_but_the_policy(algorithm, plain):
    env = make_vec_env("Pendulum-v1")
    agents = [find_agent(name) for name in (f"flow-{algorithm}", algorithm)]
    agents = [agent.in_sb3() for agent in agents] if plain else agents
    flow, gaussian = (make_agent(agent, env, dict(policy_kwargs=dict(net_arch=[16, 16])), seed=0) for agent in agents)
    assert (agents[0].table == agents[1].table) == (plain or algorithm == "ppo")
    assert isinstance(flow, type(gaussian)), "the flow agent's algorithm is the baseline's, or computes the same faster"
    assert (type(flow) is type(gaussian)) == plain
    assert isinstance(flow.policy, ActionDensity) and not isinstance(gaussian.policy, ActionDensity)
    critics = [
        {
            name: parameter.shape
            for name, parameter in model.policy.named_parameters()
            if "critic" in name or "value" in name
        }
        for model in (flow, gaussian)
    ]
    assert critics[0] == critics[1] and critics[0]
    trunk = "actor.latent_pi" if algorithm == "sac" else "mlp_extractor.policy_net"
    trunks = [
        {name: parameter.shape for name, parameter in model.policy.named_parameters() if name.startswith(trunk)}
        for model in (flow, gaussian)
    ]
    assert trunks[0] == trunks[1] and trunks[0]


def test_flow_sac_normalises_observations_unless_it_was_measured_without():
    for name in (*SAC, "Unheard"):
        ours, theirs = hyperparameters("flow-sac", name), hyperparameters("sac", name)
        without = name in ("EnergyBandit", "HiddenGoal", "MultiGoal", "Corridor", "NoisyLQR") or name[:5] in (
            "Fetch",
            "Point",
        )
        assert ours["policy_kwargs"].pop("normalize_observations") != without
        assert ours.pop("learning_starts") == min(theirs.pop("learning_starts"), 5_000)
        assert ours == theirs


@pytest.mark.parametrize("name", ["nfac", "nfq", "snf", "bc"])
def test_some_agents_have_no_form_in_sb3(name):
    with pytest.raises(ValueError, match=f"Stable-Baselines3 has no algorithm that {name} could take instead"):
        find_agent(name).in_sb3()


@pytest.mark.parametrize("name", AGENTS)
def test_the_policy_fits_the_observations(name):
    agent = find_agent(name)
    for kind, space in OBSERVATIONS.items():
        gaussian = "MlpPolicy" if kind == "Policy" else kind
        assert agent.policy_name(space) == (f"Flow{kind}" if agent.flow else gaussian)
        assert issubclass(agent.policy_class(space), ActionDensity) == agent.flow


def test_an_unknown_agent_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean flow-sac"):
        find_agent("flowsac")
