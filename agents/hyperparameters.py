"""Hyperparameters per environment, one table for SAC and one for PPO, shared by a flow agent and its Gaussian twin.

Two small ones more, for A2C and TRPO, are read by SNF where it is based on these.

Behaviour cloning has one row for all environments, and in each the networks and the normalisation of SAC, which can
then go on from what was cloned.

Every key is an argument of the Stable-Baselines3 algorithm (a ``learning_rate`` of ``"linear_FIRST_LAST"`` becomes its
schedule), except these four (``NOT_ARGUMENTS``):

- ``steps``: how long to train when the user does not say;
- ``n_envs``: how many environments run side by side;
- ``normalize``: whether observations and rewards are normalised by running statistics (``VecNormalize``);
- ``flow``: which flow an agent with one has here, where that is not its policy's default.

The tables have no entry per flow: with ``--flow gaussian`` an agent differs in the distribution and nothing else. What
differs between ``ppo`` and ``flow-ppo`` is the policy class; ``flow-sac`` also normalises observations, which ``sac``
cannot.

Where the values come from: "zoo" is RL Baselines3 Zoo's tuned file for that algorithm, "paper" the algorithm's paper.
The zoo's gSDE exploration is left out everywhere (flow policies explore by sampling from the flow).
"""

from copy import deepcopy
from typing import Any

from stable_baselines3 import HerReplayBuffer

Hyperparameters = dict[str, Any]

# SAC: Stable-Baselines3's defaults are the paper's (Haarnoja et al. 2018); the zoo trains MuJoCo with them, after
# 10,000 steps of uniformly random actions.
SAC_DEFAULTS: Hyperparameters = dict(
    steps=1_000_000,
    n_envs=1,
    normalize=False,
    learning_rate=3e-4,
    buffer_size=1_000_000,
    learning_starts=10_000,
    batch_size=256,
    tau=0.005,
    gamma=0.99,
    train_freq=1,
    gradient_steps=1,
    ent_coef="auto",
    policy_kwargs=dict(net_arch=[256, 256]),
)

SMALL: Hyperparameters = dict(
    steps=20_000,
    learning_rate="linear_1e-3_1e-5",
    buffer_size=50_000,
    learning_starts=1_000,
    policy_kwargs=dict(net_arch=[64, 64]),
)

# Goals in the observation, a reward at the goal alone: hindsight experience replay (Andrychowicz et al. 2017). Of these
# FetchReach is the zoo's without its normalisation; the others are untried.
GOALS: Hyperparameters = dict(learning_rate=1e-3, learning_starts=1_000, replay_buffer_class=HerReplayBuffer)
ARM: Hyperparameters = GOALS | dict(gamma=0.95)

SAC: dict[str, Hyperparameters] = {
    "HalfCheetah": {},
    "Hopper": {},
    "Walker2d": {},
    "Ant": {},
    "Humanoid": dict(steps=2_000_000),  # zoo
    "Swimmer": dict(gamma=0.9999),  # zoo: at 0.99 the stroke never pays
    # Easy: less random action at the start, fewer steps.
    "Reacher": dict(steps=200_000, learning_starts=1_000),
    "Pusher": dict(steps=500_000),
    "InvertedPendulum": dict(steps=100_000, learning_starts=1_000),
    "InvertedDoublePendulum": dict(steps=200_000, learning_starts=1_000),
    "Pendulum": dict(steps=10_000, learning_rate=1e-3, learning_starts=200),  # zoo, without its gSDE
    # zoo, without its gSDE.
    "BipedalWalker": dict(
        steps=500_000,
        learning_rate=7.3e-4,
        buffer_size=300_000,
        tau=0.02,
        gamma=0.98,
        train_freq=64,
        gradient_steps=64,
        policy_kwargs=dict(net_arch=[400, 300]),
    ),
    # zoo, with its learning rate held constant.
    "LunarLanderContinuous": dict(
        steps=500_000,
        learning_rate=7.3e-4,
        tau=0.01,
        policy_kwargs=dict(net_arch=[400, 300]),
    ),
    # zoo, without its gSDE, whose steady pushes are what finds the flag: noise drawn afresh at every step seldom does,
    # so expect seeds that learn to stand still.
    "MountainCarContinuous": dict(
        steps=50_000,
        buffer_size=50_000,
        learning_starts=1_000,
        batch_size=512,
        ent_coef=0.1,
        train_freq=32,
        gradient_steps=32,
        gamma=0.9999,
        tau=0.01,
        policy_kwargs=dict(net_arch=[64, 64]),
    ),
    # The tasks of flowrl.envs, at a temperature at which the best policy is known; the last policy counts, so that the
    # learning rate falls.
    "EnergyBandit": SMALL | dict(steps=30_000, ent_coef=1.0, policy_kwargs=dict(net_arch=[128, 128])),
    "HiddenGoal": SMALL | dict(ent_coef=0.02),
    "MultiGoal": SMALL | dict(steps=30_000, ent_coef=10.0),
    "Corridor": SMALL | dict(steps=50_000, ent_coef=0.02),
    "NoisyLQR": SMALL | dict(steps=30_000, ent_coef=1.0, gamma=0.9),
    "MultiTask": dict(steps=200_000, learning_starts=1_000),
    # Gymnasium-Robotics.
    "FetchReach": ARM | dict(steps=20_000, policy_kwargs=dict(net_arch=[64, 64])),
    "FetchPush": ARM,
    "FetchPickAndPlace": ARM,
    "FetchSlide": ARM,
    "PointMaze_Open": GOALS | dict(steps=100_000),
    "PointMaze_UMaze": GOALS | dict(steps=100_000),
    "PointMaze_Medium": GOALS | dict(steps=300_000),
    "PointMaze_Large": GOALS,
}


def with_policy(table: dict[str, Hyperparameters], policy_kwargs: Hyperparameters) -> dict[str, Hyperparameters]:
    """
    A table whose policies have further arguments.

    :param table: of another algorithm; a row without arguments of its policy is left to the defaults
    :param policy_kwargs: the further ones
    :return: new rows
    """
    return {
        name: row | (dict(policy_kwargs=row["policy_kwargs"] | policy_kwargs) if "policy_kwargs" in row else {})
        for name, row in table.items()
    }


# Tasks of flowrl.envs whose best policy is known; their observations are small already.
KNOWN_OPTIMUM = ("EnergyBandit", "HiddenGoal", "MultiGoal", "Corridor", "NoisyLQR")
WITH_GOALS = tuple(name for name, row in SAC.items() if "replay_buffer_class" in row)

# flow-sac: observations normalised within the policy, and half as many random steps at the start. On HalfCheetah,
# Hopper and Walker2d it learns faster with them (docs/suites.md).
FLOW_SAC_POLICY = dict(normalize_observations=True)
FLOW_SAC_DEFAULTS: Hyperparameters = SAC_DEFAULTS | dict(
    learning_starts=5_000, policy_kwargs=SAC_DEFAULTS["policy_kwargs"] | FLOW_SAC_POLICY
)
FLOW_SAC = with_policy(SAC, FLOW_SAC_POLICY)
for name in (*KNOWN_OPTIMUM, *WITH_GOALS):  # measured with observations as they are
    networks = SAC_DEFAULTS["policy_kwargs"] | SAC[name].get("policy_kwargs", {})
    FLOW_SAC[name] |= dict(policy_kwargs=networks | dict(normalize_observations=False))

# NFQ: its temperature is inside Q, and no fixed point pulls it back once it runs away, so that it is fixed. The values
# learn ten times faster than the flow, targets follow faster than SAC's, and a replayed action is weighted by how
# likely the flow still is to take it (docs/nfq.md).
NFQ_POLICY = dict(
    normalize_observations=True,
    deterministic_action="mean",  # the densest lies near the edges of the box too often
)
NFQ_DEFAULTS: Hyperparameters = SAC_DEFAULTS | dict(
    learning_rate=1e-3,
    flow_lr_scale=0.1,
    importance_floor=0.2,
    learning_starts=5_000,
    tau=0.015,
    ent_coef=0.2,
    policy_kwargs=SAC_DEFAULTS["policy_kwargs"] | NFQ_POLICY,
)

NFQ = with_policy(SAC, NFQ_POLICY)
# The densest action, since between several modes there is no good one; observations as they are, small already.
for name in KNOWN_OPTIMUM:
    NFQ[name]["policy_kwargs"] |= dict(normalize_observations=False, deterministic_action="densest")
for name in ("EnergyBandit", "MultiGoal", "NoisyLQR"):  # measured with these
    NFQ[name] |= dict(flow_lr_scale=1.0, tau=SAC_DEFAULTS["tau"])
for name in ("EnergyBandit", "MultiGoal"):  # measured before there were weights
    NFQ[name] |= dict(importance_floor=1.0)
NFQ["EnergyBandit"] |= dict(steps=15_000)
# Warm at first: what it leaves before it has found all goals is seldom found again.
NFQ["HiddenGoal"] |= dict(steps=50_000, learning_rate="linear_3e-3_1e-4", ent_coef="linear_0.1_0.02")
# Colder in the end: at 0.02 some of its actions still hit the obstacle.
NFQ["Corridor"] |= dict(ent_coef="linear_0.02_0.01")
# One V, since a minimum of two is low by what they differ in, ten times over at gamma = 0.9; alpha such that the box
# hardly cuts off the best policy.
NFQ["NoisyLQR"] |= dict(steps=150_000, batch_size=512, ent_coef=0.3)
NFQ["NoisyLQR"]["policy_kwargs"] |= dict(n_critics=1)
# From a data set, which its own policy did not collect: the penalty of conservative Q-learning keeps its mass there.
OFFLINE: dict[str, Hyperparameters] = {"nfq": dict(cql_weight=0.3, importance_floor=1.0, replay_buffer_class=None)}

# NFAC: observations and rewards normalised, a low first temperature and more entropy, as in SimbaV2; SAC's networks
# with layer norms, and with these a learning rate three times SAC's.
NFAC_POLICY = dict(normalize_observations=True, architecture=dict(norm="layer"))
NFAC_DEFAULTS: Hyperparameters = SAC_DEFAULTS | dict(
    learning_rate=1e-3,
    learning_starts=5_000,
    ent_coef="auto_0.01",
    target_entropy="auto_0.5",
    critic="categorical",
    policy_kwargs=SAC_DEFAULTS["policy_kwargs"] | NFAC_POLICY,
)
NFAC = with_policy(SAC, NFAC_POLICY)
# Temperatures at which the best policy is known are in the environment's rewards, whose returns the critics' interval
# must then hold.
for name, bound in dict(EnergyBandit=10.0, HiddenGoal=5.0, MultiGoal=1_000.0, Corridor=5.0, NoisyLQR=200.0).items():
    NFAC[name] |= dict(scale_rewards=False)
    NFAC[name]["policy_kwargs"] |= dict(critic_kwargs=dict(bound=bound))
NFAC["ReturnChain"] = dict(
    steps=20_000,
    learning_rate="linear_1e-3_1e-5",
    buffer_size=20_000,
    learning_starts=1_000,
    ent_coef=0.001,  # its part in the return is then nothing
    critic="flow",
    policy_kwargs=NFAC_DEFAULTS["policy_kwargs"] | dict(net_arch=[64, 64], architecture={}),  # measured without norms
)

# PPO: the paper's continuous-control settings (Schulman et al. 2017), with the normalisation of observations and
# rewards that Engstrom et al. 2020 and Andrychowicz et al. 2021 found to matter as much as the algorithm.
PPO_DEFAULTS: Hyperparameters = dict(
    steps=1_000_000,
    n_envs=1,
    normalize=True,
    learning_rate=3e-4,
    n_steps=2048,
    batch_size=64,
    n_epochs=10,
    gamma=0.99,
    gae_lambda=0.95,
    clip_range=0.2,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    policy_kwargs=dict(net_arch=[64, 64]),
)

SMALL_ROLLOUTS: Hyperparameters = dict(n_envs=8, normalize=False, n_steps=256, batch_size=256, ent_coef=0.01)

PPO: dict[str, Hyperparameters] = {
    "HalfCheetah": {},
    "Hopper": {},
    "Walker2d": {},
    "Ant": dict(steps=3_000_000),
    "Humanoid": dict(steps=10_000_000),
    # zoo, at the default learning rate for the reason that Pendulum has
    "Swimmer": dict(n_envs=4, n_steps=1024, batch_size=256, gamma=0.9999, gae_lambda=0.98),
    "Reacher": {},
    "Pusher": {},
    "InvertedPendulum": dict(steps=200_000),
    "InvertedDoublePendulum": dict(steps=500_000),
    # zoo, without its gSDE, and at the default learning rate: at the zoo's 1e-3 flow-ppo diverged with context_gain=1,
    # and learns as well as here with that of today (first_steps.csv).
    "Pendulum": dict(steps=200_000, n_envs=4, normalize=False, n_steps=1024, gamma=0.9),
    # zoo, on 8 environments instead of 32 (the same number of steps between updates)
    "BipedalWalker": dict(steps=5_000_000, n_envs=8, n_steps=8192, gamma=0.999, clip_range=0.18),
    # zoo
    "LunarLanderContinuous": dict(
        n_envs=16, normalize=False, n_steps=1024, n_epochs=4, gamma=0.999, gae_lambda=0.98, ent_coef=0.01
    ),
    "MountainCarContinuous": dict(steps=200_000, n_envs=4, n_steps=1024, gamma=0.9999, gae_lambda=0.98, ent_coef=0.01),
    # The tasks of flowrl.envs: a little entropy, since a mode that is lost is not found again; a flow that can show
    # more than one.
    "HiddenGoal": SMALL_ROLLOUTS | dict(steps=600_000, learning_rate="linear_2e-3_1e-4", flow="triangular"),
    "Corridor": SMALL_ROLLOUTS | dict(steps=600_000, learning_rate="linear_1e-3_1e-4", flow="triangular"),
    **{name: dict(flow="triangular") for name in ("TwoGoodActions", "Obstacle", "EnergyBandit", "MultiGoal")},
}

# A2C: the zoo's for continuous actions, without its gSDE and with its learning rate held constant.
A2C_DEFAULTS: Hyperparameters = dict(
    steps=1_000_000,
    n_envs=4,
    normalize=True,
    learning_rate=7e-4,
    n_steps=8,
    gamma=0.99,
    gae_lambda=0.9,
    ent_coef=0.0,
    vf_coef=0.4,
    max_grad_norm=0.5,
    policy_kwargs=dict(net_arch=[64, 64]),
)

A2C: dict[str, Hyperparameters] = {
    "Pendulum": dict(n_envs=8),
    "BipedalWalker": dict(steps=5_000_000, n_envs=16),
    "LunarLanderContinuous": dict(steps=5_000_000),
    "MountainCarContinuous": dict(steps=100_000, n_steps=100, gae_lambda=1.0, vf_coef=0.5),
}

# TRPO: the zoo's for MuJoCo.
TRPO_DEFAULTS: Hyperparameters = dict(
    steps=1_000_000,
    n_envs=2,
    normalize=True,
    learning_rate=1e-3,
    n_steps=1024,
    batch_size=128,
    gamma=0.99,
    gae_lambda=0.95,
    cg_max_steps=25,
    cg_damping=0.1,
    n_critic_updates=20,
    target_kl=0.01,
    policy_kwargs=dict(net_arch=[64, 64]),
)

TRPO: dict[str, Hyperparameters] = {
    "HalfCheetah": dict(target_kl=0.04),
    "Humanoid": dict(steps=2_000_000),
    "Swimmer": dict(gamma=0.9999),
    "Pendulum": dict(steps=100_000, normalize=False, gamma=0.9, cg_max_steps=15, n_critic_updates=15),
    "LunarLanderContinuous": dict(steps=100_000, cg_max_steps=15),
    "MountainCarContinuous": dict(steps=50_000, n_steps=2048, cg_max_steps=15, n_critic_updates=10),
}

# Behaviour cloning: a step is an update on a minibatch of the demonstrations.
BC_DEFAULTS: Hyperparameters = dict(
    steps=20_000,
    n_envs=1,
    normalize=False,
    learning_rate=1e-3,
    buffer_size=1,  # nothing is collected
    learning_starts=0,
    batch_size=256,
    gamma=0.99,
    policy_kwargs=dict(net_arch=[256, 256]),
)
SHARED_WITH_SAC = ("gamma", "normalize", "policy_kwargs")

BC: dict[str, Hyperparameters] = {
    name: {key: row[key] for key in SHARED_WITH_SAC if key in row} for name, row in SAC.items()
}

TABLES: dict[str, tuple[Hyperparameters, dict[str, Hyperparameters]]] = {
    "sac": (SAC_DEFAULTS, SAC),
    "flow-sac": (FLOW_SAC_DEFAULTS, FLOW_SAC),
    "nfac": (NFAC_DEFAULTS, NFAC),
    "nfq": (NFQ_DEFAULTS, NFQ),
    "ppo": (PPO_DEFAULTS, PPO),
    "a2c": (A2C_DEFAULTS, A2C),
    "trpo": (TRPO_DEFAULTS, TRPO),
    "bc": (BC_DEFAULTS, BC),
}


NOT_ARGUMENTS = ("steps", "n_envs", "normalize", "flow")


def hyperparameters(algorithm: str, environment: str, offline: bool = False) -> Hyperparameters:
    """
    The hyperparameters of an algorithm on an environment; the defaults where the environment has no entry.

    :param algorithm: ``"sac"``, ``"flow-sac"``, ``"nfac"``, ``"nfq"``, ``"ppo"``, ``"a2c"``, ``"trpo"`` or ``"bc"``
    :param environment: an environment's name without its version (``"HalfCheetah"``)
    :param offline: whether an algorithm that can learn from a data set does so
    :return: a fresh dictionary that the caller may change
    """
    defaults, table = TABLES[algorithm]
    return deepcopy(defaults | table.get(environment, {}) | (OFFLINE.get(algorithm, {}) if offline else {}))


def model_arguments(settings: Hyperparameters) -> Hyperparameters:
    """
    The part of an agent's hyperparameters that its Stable-Baselines3 model takes.

    :param settings: what :func:`hyperparameters` gave
    :return: all but how long, on how many environments, whether normalised, and with which flow, which goes into the
        ``policy_kwargs`` of an agent that has one
    """
    return {key: value for key, value in settings.items() if key not in NOT_ARGUMENTS}
