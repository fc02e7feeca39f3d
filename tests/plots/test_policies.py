"""Pictures of action densities: the whole box of every state, of any policy and action space."""

import io

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC

from flowrl.plots.policies import density_figure
from tests.environments import Aim


def policy_of(algorithm, policy, dimensions):
    torch.manual_seed(0)
    env = Aim(low=[-2.0] * dimensions, high=[3.0] * dimensions, reward=lambda action, state: 0.0)
    return algorithm(policy, env, policy_kwargs=dict(net_arch=[8])).policy


@pytest.mark.parametrize(
    ("algorithm", "policy", "dimensions", "rows"),
    [
        *((SAC, "FlowPolicy", dimensions, rows) for dimensions, rows in ((1, 1), (2, 1), (3, 2), (17, 4))),
        *((algorithm, policy, 2, 1) for algorithm, policy in ((PPO, "FlowPolicy"), (SAC, "MlpPolicy"))),
        (PPO, "MlpPolicy", 1, 1),
    ],
)
def test_a_figure_shows_the_whole_box_of_every_state(algorithm, policy, dimensions, rows):
    figure = density_figure(policy_of(algorithm, policy, dimensions), np.zeros((3, 3), np.float32), n_samples=100)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 3 * rows and len(figure.axes) == len(panels) + (rows if dimensions > 1 else 0)
    for axes in panels:
        assert axes.get_xlim() == (-2, 3) and axes.get_xlabel()
        assert dimensions == 1 or axes.get_ylim() == (-2, 3)
    assert [axes.get_title() for axes in panels[:3]] == ["state 1", "state 2", "state 3"]
    for row in np.reshape(panels, (rows, 3)):
        scales = {axes.get_ylim() if dimensions == 1 else axes.images[0].get_clim() for axes in row}
        assert len(scales) == 1, "along a row the same colour, or height, is the same density"
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_box_of_unequal_sides_is_shown_whole_and_square(dimensions, columns):
    """As CarRacing's, whose wheel turns both ways and whose pedals do not."""
    low, high = [-1.0, 0.0, 0.0][:dimensions], [1.0] * dimensions
    policy = SAC(
        "FlowPolicy", Aim(low, high, reward=lambda action, state: 0.0), policy_kwargs=dict(net_arch=[8])
    ).policy
    figure = density_figure(policy, np.zeros((columns, 3), np.float32), n_samples=100)
    figure.savefig(io.BytesIO())  # which may change limits
    assert (figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) == ((-1, 1), (0, 1))
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("unseen", [float("nan"), float("-inf")])
def test_densities_that_are_not_seen_do_not_stop_training(monkeypatch, dimensions, unseen):
    """Those that are no numbers, and one that is narrower than a grid's cells."""
    monkeypatch.setattr(
        "flowrl.plots.policies.action_log_prob", lambda policy, obs, actions: torch.full((len(actions),), unseen)
    )
    figure = density_figure(policy_of(SAC, "FlowPolicy", dimensions), np.zeros((2, 3), np.float32))
    figure.savefig(io.BytesIO())


def test_actions_of_several_axes_are_flattened():
    env = gym.wrappers.TransformAction(
        gym.make("Reacher-v5"), lambda action: action.flatten(), gym.spaces.Box(-1, 1, (1, 2))
    )
    policy = SAC("FlowPolicy", env, policy_kwargs=dict(net_arch=[8])).policy
    figure = density_figure(policy, np.zeros((1, *env.observation_space.shape)))
    assert len(figure.axes) == 2  # and the colour bar
