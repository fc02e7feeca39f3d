"""What flowrl's PPO adds to SB3's: a learning rate that follows the divergence of updates."""

import pytest

from flowrl.algorithms import PPO, SNF
from tests.environments import Aim

SMALL = dict(n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]))


def rates_of(model, steps):
    """The optimiser's learning rate after each rollout's update."""
    rates = []

    class Look(type(model)):
        def train(self):
            super().train()
            rates.append(self.policy.optimizer.param_groups[0]["lr"])

    model.__class__ = Look
    model.learn(steps)
    return rates


@pytest.mark.parametrize(("desired", "factor"), [(1e-9, 1 / 1.5), (1e3, 1.5)])
@pytest.mark.parametrize("algorithm", [PPO, SNF])
def test_the_rate_goes_down_where_updates_go_far_and_up_where_they_do_not(algorithm, desired, factor):
    model = algorithm("FlowPolicy", Aim(), learning_rate=1e-3, desired_kl=desired, **SMALL)
    rates = rates_of(model, 4 * 64)
    assert rates == pytest.approx([1e-3 * factor**i for i in range(4)])
    assert model.rate_factor == pytest.approx(factor**4)
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(rates[-1])


def test_the_factor_is_bounded_saved_and_multiplies_the_schedule(tmp_path):
    model = PPO("FlowPolicy", Aim(), learning_rate=lambda left: 0.1 * (1 + left), desired_kl=1e-9, **SMALL)
    rates = rates_of(model, 14 * 64)
    assert model.rate_factor == 0.01
    assert rates[-2:] == pytest.approx([0.01 * 0.1 * (1 + 1 / 14), 0.01 * 0.1])
    model.__class__ = PPO
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=Aim())
    assert (loaded.desired_kl, loaded.rate_factor) == (1e-9, 0.01)


def test_a_divergence_that_is_none_is_refused():
    with pytest.raises(ValueError, match="desired_kl must be a number greater than 0"):
        PPO("FlowPolicy", Aim(), desired_kl=0.0, **SMALL)
    with pytest.raises(ValueError, match="desired_kl needs updates of several steps"):
        PPO("FlowPolicy", Aim(), desired_kl=0.01, **SMALL | dict(n_epochs=1, batch_size=64))
