"""The options of the deterministic action: the mean, the average, the densest of some candidates, the best by Q."""

import numpy as np
import pytest
import torch

from tests.environments import Aim
from tests.models import ALGORITHMS, OFF_POLICY, ON_POLICY, assert_same_policy, build, perturb, states


def model_of(algorithm: str, option: str, **kwargs):
    shape = dict(flow="triangular") | kwargs  # whose mean, average and densest action differ
    model = build(algorithm, policy_kwargs=dict(deterministic_action=option, n_candidates=8, **shape))
    perturb(model.policy, 0.1)
    return model


@torch.no_grad()
def candidates(model, obs):
    """Of one state after the other: the environment's actions of the mean and of the samples."""
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(obs)[0]).distribution
    emitted = distribution.candidates(8)[0].numpy()
    return np.stack([model.policy.unscale_action(actions) for actions in emitted])


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_densest_has_the_highest_log_prob_of_the_candidates(algorithm):
    model, obs = model_of(algorithm, "densest"), states(Aim())
    actions, _ = model.predict(obs, deterministic=True)
    tensor, _ = model.policy.obs_to_tensor(obs)
    options = [model.policy.log_prob(tensor, torch.as_tensor(one)) for one in candidates(model, obs)]
    chosen = model.policy.log_prob(tensor, torch.as_tensor(actions))
    torch.testing.assert_close(chosen, torch.stack(options).amax(0), atol=1e-3, rtol=1e-3)
    assert (chosen > options[0] + 1e-3).any(), "which is not always the mean"


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_best_has_the_highest_q_of_the_candidates(algorithm):
    model, obs = model_of(algorithm, "best"), states(Aim())
    model.policy.set_training_mode(False)
    actions, _ = model.predict(obs, deterministic=True)
    tensor, _ = model.policy.obs_to_tensor(obs)

    def q(action):
        values = model.critic(tensor, torch.as_tensor(model.policy.scale_action(action)))
        return (torch.cat(values, 1) if isinstance(values, tuple) else values.mean(-1)).amin(1)

    options = torch.stack([q(one) for one in candidates(model, obs)])
    torch.testing.assert_close(q(actions), options.amax(0), atol=1e-4, rtol=1e-4)
    assert (options.argmax(0) > 0).any()


@pytest.mark.parametrize("flow", ["triangular", "nsf"])
@pytest.mark.parametrize("algorithm", ["SAC", "PPO", "A2C"])
def test_average_is_the_mean_of_the_environments_actions(algorithm, flow):
    model = build(algorithm, policy_kwargs=dict(deterministic_action="average", n_candidates=2_000, flow=flow))
    perturb(model.policy, 0.3)
    obs = states(Aim())[:4]
    sampled = np.stack([model.predict(obs)[0] for _ in range(4_000)])
    actions, _ = model.predict(obs, deterministic=True)
    np.testing.assert_allclose(actions, sampled.mean(0), atol=6 * sampled.std(0).max() / 4_000**0.5)
    owner = model.actor if algorithm == "SAC" else model.policy
    owner.action_dist.deterministic_action = "mean"  # of the noise
    assert np.abs(model.predict(obs, deterministic=True)[0] - sampled.mean(0)).max() > 0.02


def test_average_of_a_gaussian_that_is_not_squashed_is_its_mean():
    """By the mirror images, however few draws there are."""
    kwargs = dict(n_candidates=1, flow="gaussian", squash_output=False)
    model = build("PPO", policy_kwargs=dict(deterministic_action="average", **kwargs))
    average, _ = model.predict(states(Aim()), deterministic=True)
    model.policy.action_dist.deterministic_action = "mean"
    np.testing.assert_allclose(average, model.predict(states(Aim()), deterministic=True)[0], atol=1e-6)


@pytest.mark.parametrize(
    "algorithm, option",
    [("SAC", "densest"), ("SAC", "best"), ("SAC", "average"), ("PPO", "densest"), ("PPO", "average")],
)
def test_it_repeats_for_every_batch_leaves_random_numbers_alone_and_is_saved(algorithm, option, tmp_path):
    model, obs = model_of(algorithm, option, flow="nsf"), states(Aim())
    torch.manual_seed(5)
    actions, _ = model.predict(obs, deterministic=True)
    following = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), following)
    np.testing.assert_allclose(model.predict(obs[3], deterministic=True)[0], actions[3], atol=1e-5)
    assert not np.array_equal(model.predict(obs)[0], model.predict(obs)[0])
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert loaded.policy_kwargs["deterministic_action"] == option
    assert_same_policy(model, loaded, Aim())


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_a_number_of_numpy_is_a_number_of_candidates(algorithm):
    model = build(algorithm, policy_kwargs=dict(deterministic_action="densest", n_candidates=np.int64(16)))
    same = build(algorithm, policy_kwargs=dict(deterministic_action="densest", n_candidates=16))
    assert_same_policy(model, same, Aim())


def test_best_serves_dictionaries_of_observations():
    env = Aim(observation="dict")
    model = build("SAC", env, "FlowMultiInputPolicy", dict(deterministic_action="best"))
    assert model.predict(states(env), deterministic=True)[0].shape == (8, 2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_that_cannot_be_are_refused(algorithm):
    with pytest.raises(ValueError, match="deterministic_action must be \"mean\".*got 'mode'"):
        build(algorithm, policy_kwargs=dict(deterministic_action="mode"))
    for number in (0, True, 1.5):
        with pytest.raises(ValueError, match=f"n_candidates must be a whole number of at least 1, got {number}"):
            build(algorithm, policy_kwargs=dict(n_candidates=number))
    if algorithm in ON_POLICY:
        with pytest.raises(ValueError, match="no Q to say which is best"):
            build(algorithm, policy_kwargs=dict(deterministic_action="best"))


def test_an_actor_without_its_critic_cannot_say_what_is_best():
    model = model_of("SAC", "best")
    with pytest.raises(ValueError, match="ask the policy"):
        model.actor(torch.zeros(1, 3), deterministic=True)
