"""On a GPU, updates and actions as CUDA graphs are those of torch's operations one by one."""

from typing import Any

import pytest
import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from flowrl import algorithms
from flowrl.algorithms.finite import _left_out_unless, are_finite, step_if_finite
from flowrl.kernels import _RECORDED
from flowrl.kernels.cuda_updates import RecordedSACUpdate
from flowrl.side_by_side import side_by_side
from tests.environments import Aim
from tests.models import FLOWS, perturb

SAC = dict(learning_starts=20, batch_size=32, buffer_size=500, learning_rate=1e-3)
PPO = dict(n_steps=64, batch_size=24, n_epochs=2, learning_rate=1e-3, ent_coef=0.01)
SETTINGS: dict[str, dict[str, Any]] = dict(SAC=SAC, NFQ=SAC | dict(ent_coef="auto"), NFAC=SAC, PPO=PPO)
STEPS = dict(SAC=60, NFQ=60, NFAC=60, PPO=256)

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("algorithm", "settings", "reason"),
    [
        ("SAC", {}, ""),
        ("NFQ", {}, ""),
        ("NFAC", {}, ""),
        ("PPO", {}, ""),
        ("SAC", dict(policy="MlpPolicy"), "the policy is SACPolicy"),
        ("PPO", dict(policy="MlpPolicy"), "the policy is ActorCriticPolicy"),
        ("SAC", dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD)), "SGD, not Adam"),
        ("PPO", dict(target_kl=0.1), "target_kl"),
    ],
    ids=str,
)
def test_what_is_recorded_and_what_is_not(algorithm, settings, reason):
    """It needs no GPU to be asked."""
    settings = dict(policy="FlowPolicy") | SETTINGS[algorithm] | settings
    model = getattr(algorithms, algorithm)(env=Aim(), device="cpu", **settings)
    critic = getattr(model, "critic", None)
    (kind,) = [kind for (of, judge), kind in _RECORDED.items() if isinstance(model, of) and isinstance(critic, judge)]
    found = kind(model).why_not(model)
    assert reason in found and bool(found) is bool(reason)


def test_statistics_and_hooks_are_not_recorded():
    model = algorithms.SAC("FlowPolicy", Aim(), device="cpu", **SAC)
    model.actor.latent_pi.append(nn.BatchNorm1d(256))
    assert "statistics" in RecordedSACUpdate(model).why_not(model)
    model = algorithms.SAC("FlowPolicy", Aim(), device="cpu", **SAC)
    model.critic.register_forward_hook(lambda *_: None)
    assert "hook" in RecordedSACUpdate(model).why_not(model)
    model = algorithms.SAC("FlowPolicy", Aim(), device="cpu", **SAC)
    update = RecordedSACUpdate(model)
    assert update.is_of(model) and update.why_not(model) == ""
    handle = next(model.critic.parameters()).register_hook(lambda gradient: gradient)
    assert "hook listens to a parameter" in update.why_not(model)
    handle.remove()
    assert update.why_not(model) == ""
    model.actor.optimizer.register_step_pre_hook(lambda *_: None)
    assert "hook listens to an optimiser" in update.why_not(model)
    model.actor.optimizer.add_param_group(dict(params=[nn.Parameter(torch.ones(1))]))
    assert not update.is_of(model)


def test_adam_by_a_fused_step_is_adam():
    """What is recorded: rates and counts of steps in tensors. The CPU has it, too. Options are put back."""
    models = [algorithms.SAC("FlowPolicy", Aim(), device="cpu", **SAC, seed=0) for _ in range(2)]
    batch = ReplayBufferSamples(*(torch.rand(32, n) for n in (3, 2, 3, 1, 1)))
    recorded = RecordedSACUpdate(models[1])
    for model in models:
        torch.manual_seed(0)
        for _ in range(3):
            if model is models[0]:
                model._torch_update(batch, True)
            else:
                recorded._take_rates()
                with recorded._on_the_gpu():
                    for group in model.actor.optimizer.param_groups:
                        assert group["fused"] and isinstance(group["lr"], torch.Tensor)
                        group["capturable"] = False  # of which a CPU knows nothing
                    for owner in (model.critic.optimizer, model.ent_coef_optimizer):
                        owner.param_groups[0]["capturable"] = False
                    model._torch_update(batch, True)
    for ours, theirs in zip(models[1].policy.parameters(), models[0].policy.parameters()):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (group,) = models[1].actor.optimizer.param_groups
    assert not group["fused"] and not group["capturable"] and isinstance(group["lr"], float)


@pytest.mark.parametrize(
    ("device", "fused"), [("cpu", False), ("cpu", True), pytest.param("cuda", True, marks=needs_a_gpu)]
)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_step_is_left_out_where_its_gradient_is_not_finite(device, fused, max_grad_norm):
    weight = nn.Parameter(torch.ones(3, device=device))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    for gradient, moves in ((1.0, True), (float("nan"), False), (float("inf"), False), (1.0, True)):
        before = weight.detach().clone()
        weight.grad = torch.full((3,), gradient, device=device)
        assert bool(step_if_finite(optimizer, max_grad_norm=max_grad_norm)) is moves
        assert torch.isfinite(weight).all() and torch.equal(weight, before) is not moves
    assert optimizer.state[weight]["step"] == 2, "what is left out is no step"


@pytest.mark.parametrize("fused", [False, True])
def test_the_form_without_a_branch_leaves_a_step_out_too(fused):
    """Of a GPU's updates, here on the CPU. Adam has no momentum yet, by which it would move where it is not fused."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=fused)
    for gradient in (float("nan"), 1.0):
        weight.grad = torch.full((3,), gradient)
        finite = are_finite([weight])
        with _left_out_unless(finite, optimizer, [weight]):
            optimizer.step()
        assert torch.equal(weight, torch.ones(3)) is not bool(finite)
    assert not hasattr(optimizer, "found_inf")


def test_parts_side_by_side_are_called_in_order():
    called = []
    assert side_by_side(lambda: called.append("a") or 1, lambda: called.append("b") or 2) == [1, 2]
    assert called == ["a", "b"]


def make(algorithm: str, recorded: bool, flow: str = "triangular", **settings: Any) -> Any:
    """A model on the GPU, whose updates are recorded or not."""
    policy_kwargs = dict(net_arch=[32, 32], flow=flow)
    cls = getattr(algorithms, algorithm)
    model = cls(
        "FlowPolicy", Aim(), policy_kwargs=policy_kwargs, **SETTINGS[algorithm] | settings, seed=0, device="cuda"
    )
    if not recorded:
        model.choose_update = lambda: None
        model.update_form = "torch"
    return model


def trained(algorithm: str, recorded: bool, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """It, and what it logged last."""
    model = make(algorithm, recorded, **kwargs)
    model.learn(STEPS[algorithm])
    return model, {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}


@needs_a_gpu
@pytest.mark.parametrize("algorithm", SETTINGS)
@pytest.mark.parametrize("flow", ["gaussian", "triangular", "affine", "realnvp", "nsf"])
def test_trains_as_torch_does_operation_by_operation(algorithm, flow):
    (recorded, its_logs), (plain, logs) = (trained(algorithm, form, flow=flow) for form in (True, False))
    assert recorded.update_form == "CUDA graph", recorded.update_reason
    assert recorded._n_updates == plain._n_updates > 4
    for (name, ours), theirs in zip(recorded.policy.state_dict().items(), plain.policy.state_dict().values()):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-2, msg=lambda text, name=name: f"{name}: {text}")
    assert its_logs.keys() == logs.keys()
    owner = recorded.policy if algorithm == "PPO" else recorded.actor
    (group,) = owner.optimizer.param_groups
    assert not group["capturable"] and isinstance(group["lr"], float), "files are those of any other device"


@needs_a_gpu
@pytest.mark.parametrize("flow", FLOWS)
def test_every_flow_trains(flow):
    model, _ = trained("SAC", True, flow=flow)
    assert model.update_form == "CUDA graph" or "cannot be recorded" in model.update_reason
    assert model._n_updates > 10 and all(torch.isfinite(p).all() for p in model.policy.parameters())


@needs_a_gpu
def test_follows_a_schedule_of_the_learning_rate():
    """A rate of zero from the middle on: nothing moves any more."""
    model = make("SAC", True, learning_rate=lambda remaining: 1e-3 if remaining > 0.5 else 0.0)
    seen = []
    model.learn(80, callback=lambda *_: seen.append(model.actor.flow.context_map.bias.detach().clone()) or True)
    assert model.update_form == "CUDA graph"
    assert not torch.equal(seen[30], seen[35])
    assert torch.equal(seen[45], seen[-1])


@needs_a_gpu
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_goes_on_from_weights_and_optimisers_that_were_loaded(algorithm, tmp_path):
    """Loaded in the midst of training, on a CPU too, where Adam wants its own counts of steps."""
    first = make(algorithm, True)
    first.learn(STEPS[algorithm])
    first.save(tmp_path / "model")
    state = {key: value.clone() for key, value in first.policy.state_dict().items()}
    first.learn(STEPS[algorithm], reset_num_timesteps=False)
    first.set_parameters(tmp_path / "model")
    for key, value in first.policy.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    first.learn(STEPS[algorithm], reset_num_timesteps=False)
    assert first.update_form == "CUDA graph", first.update_reason
    assert any(not torch.equal(value, state[key]) for key, value in first.policy.state_dict().items())
    on_cpu = getattr(algorithms, algorithm).load(tmp_path / "model", env=Aim(), device="cpu")
    on_cpu.learn(STEPS[algorithm])
    assert all(torch.isfinite(p).all() for p in on_cpu.policy.parameters())


@needs_a_gpu
def test_an_update_is_one_arithmetic_recorded_or_not():
    """Weights and random numbers to the bit: a run that is resumed warms up anew, and must not differ for it."""
    through = make("SAC", True)
    through.learn(40)
    again = make("SAC", True)
    again.learn(30)
    assert again.update_form == "CUDA graph", again.update_reason
    update = again.choose_update()
    update._graphs.clear(), update._calls.clear()  # as after a resumption, in which the next three are not recorded
    again.learn(10, reset_num_timesteps=False)
    for (name, ours), theirs in zip(through.policy.state_dict().items(), again.policy.state_dict().values()):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@needs_a_gpu
def test_a_recording_that_fails_leaves_training_as_it_is():
    """The update waits for the GPU, which none can that is recorded: torch trains on, and says why."""
    model = make("SAC", True)
    step = model._torch_update

    def waits(batch: Any, move_targets: bool, *args: Any) -> torch.Tensor:
        losses = step(batch, move_targets, *args)
        losses.tolist()
        return losses

    model._torch_update = waits
    model.learn(60)
    assert model.update_form == "torch" and "cannot be recorded" in model.update_reason
    assert model._n_updates == 40 and all(torch.isfinite(p).all() for p in model.policy.parameters())
    assert torch.isfinite(torch.randn(3, device="cuda")).all(), "random numbers go on"


@needs_a_gpu
def test_weights_survive_a_bad_batch():
    model = make("SAC", True)
    model.learn(40)
    model.replay_buffer.rewards[:] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.train(1, 32)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@needs_a_gpu
@pytest.mark.parametrize("deterministic", [False, True])
def test_acts_as_torch_does(deterministic):
    model = make("SAC", True)
    perturb(model.actor, 0.3)
    obs = torch.rand(5, 3, device="cuda")
    with torch.no_grad():
        expected = model.actor.get_distribution(obs).distribution.center()
        for _ in range(6):
            action = model.actor(obs, deterministic)
            if deterministic:
                torch.testing.assert_close(action, expected, atol=1e-5, rtol=1e-5)
        others = model.actor(obs, deterministic)
    assert torch.equal(action, others) is deterministic


@needs_a_gpu
def test_ppo_acts_with_the_log_prob_of_its_actions():
    model = make("PPO", True)
    perturb(model.policy, 0.3)
    obs = torch.rand(5, 3, device="cuda")
    with torch.no_grad():
        for _ in range(6):
            actions, values, log_prob = model.policy(obs)
        theirs, their_log_prob, _ = model.policy.evaluate_actions(obs, actions)
    torch.testing.assert_close(values, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_prob, their_log_prob, atol=1e-4, rtol=1e-4)


@needs_a_gpu
def test_what_cannot_be_recorded_is_trained_without():
    model = make("SAC", True)
    model.critic.register_forward_hook(lambda *_: None)
    model.learn(60)
    assert model.update_form == "torch" and "hook" in model.update_reason
