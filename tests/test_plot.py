"""Pictures of densities: what is on them, and that they survive awkward policies."""

import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from stable_baselines3 import PPO, SAC

from flowrl.plot import density_figure, draw_contours, draw_curve, draw_samples
from tests.environments import Aim


def policy_of(algorithm, policy, dimensions):
    torch.manual_seed(0)
    env = Aim(low=[-2.0] * dimensions, high=[3.0] * dimensions, reward=lambda action, state: 0.0)
    return algorithm(policy, env, policy_kwargs=dict(net_arch=[8])).policy


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(SAC, "FlowPolicy"), (PPO, "FlowPolicy"), (SAC, "MlpPolicy"), (PPO, "MlpPolicy")],
)
@pytest.mark.parametrize(("dimensions", "rows"), [(1, 1), (2, 1), (3, 2), (6, 3), (17, 4)])
def test_a_figure_shows_the_whole_box_of_every_state(algorithm, policy, dimensions, rows):
    figure = density_figure(policy_of(algorithm, policy, dimensions), np.zeros((3, 3), np.float32), n_samples=100)
    assert len(figure.axes) == 3 * rows
    for axes in figure.axes:
        assert axes.get_xlim() == (-2, 3) and axes.get_xlabel()
        assert dimensions == 1 or axes.get_ylim() == (-2, 3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["state 1", "state 2", "state 3"]
    figure.savefig(io.BytesIO())


def test_a_curve_is_the_density():
    axes = Figure().subplots()
    normal = torch.distributions.Normal(0.0, 1.0)
    draw_curve(axes, lambda x: normal.log_prob(x[:, 0]), -5, 5)
    x, density = axes.lines[0].get_data()
    assert (density * (x[1] - x[0])).sum() == pytest.approx(1, abs=1e-3)


def test_contours_put_each_variable_on_its_axis():
    axes = Figure().subplots()
    center = torch.tensor([0.5, -0.5])
    draw_contours(axes, lambda a: -((a - center) ** 2).sum(-1) * 50, [-1, -1], [1, 1])
    darkest = [path for path in axes.collections[0].get_paths() if len(path.vertices)][-1]
    assert darkest.vertices.mean(axis=0) == pytest.approx([0.5, -0.5], abs=0.05)


@pytest.mark.parametrize("log_prob", [float("-inf"), float("nan"), float("inf")])
def test_densities_that_are_not_finite_do_not_stop_training(log_prob):
    figure = Figure()
    draw_contours(figure.subplots(), lambda a: torch.full((len(a),), log_prob), [-1, -1], [1, 1])
    draw_curve(figure.add_subplot(), lambda a: torch.full((len(a),), log_prob), -1, 1)
    figure.savefig(io.BytesIO())


def test_samples_on_the_edge_are_counted():
    axes = Figure().subplots()
    draw_samples(axes, np.array([[-1.0, 1.0], [1.0, 1.0]]), [-1, -1], [1, 1], bins=2)
    assert axes.collections[0].get_array().sum() == 2


def test_actions_of_several_axes_are_flattened():
    env = gym.wrappers.TransformAction(
        gym.make("Reacher-v5"), lambda action: action.flatten(), gym.spaces.Box(-1, 1, (1, 2))
    )
    policy = SAC("FlowPolicy", env, policy_kwargs=dict(net_arch=[8])).policy
    figure = density_figure(policy, np.zeros((1, *env.observation_space.shape)))
    assert len(figure.axes) == 1
