"""`Flow` as users build it: by name, from their own builders, transforms and modules; and what it refuses."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Independent,
    Normal,
    SigmoidTransform,
    TanhTransform,
    TransformedDistribution,
)

import flowrl
from flowrl import Flow
from flowrl.flows.flow import soft_clamp
from flowrl.flows.path import PathFlow
from flowrl.layers import ActNorm, Reorder
from flowrl.transforms import TorchTransform
from tests.models import perturb


class GaussianModule(nn.Module):
    """A user's own module: context -> a distribution of torch."""

    def __init__(self, features: int, context: int):
        super().__init__()
        self.linear = nn.Linear(context, features)

    def forward(self, context):
        return Independent(Normal(self.linear(context), 0.5), 1)


@pytest.fixture
def registered():
    before = dict(flowrl.flows.recipes._RECIPES)
    yield
    flowrl.flows.recipes._RECIPES.clear()
    flowrl.flows.recipes._RECIPES.update(before)


def test_a_list_of_torch_transforms_is_a_flow():
    torch.manual_seed(0)  # torch's own tanh loses digits near its edge
    flow = Flow(2, 3, [AffineTransform(0.5, 0.5), TanhTransform()]).double()
    context = torch.randn(5, 3).double()
    distribution = flow(context)
    x, log_prob = distribution.rsample_and_log_prob((4,))
    torch.testing.assert_close(distribution.log_prob(x), log_prob)
    mean, log_std = flow.context_map(context).chunk(2, -1)
    expected = TransformedDistribution(
        Independent(Normal(0.0, 1.0).expand((5, 2)), 1),
        [AffineTransform(0.5, 0.5), TanhTransform(), AffineTransform(mean, log_std.exp())],
        validate_args=False,
    )
    torch.testing.assert_close(distribution.log_prob(x), expected.log_prob(x))


@pytest.mark.parametrize("name", ["nsf", "realnvp", "triangular", "maf"])
def test_a_gain_changes_steps_and_not_the_start(name):
    flows = []
    for gain in (1.0, 0.125):
        torch.manual_seed(0)
        flows.append(Flow(3, 16, name, context_gain=gain).double())
    context = torch.randn(5, 16).double()
    torch.testing.assert_close(*(flow.context_map(context) for flow in flows))
    change = []
    for flow in flows:
        before = flow.context_map(context).detach()
        optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
        flow.context_map(context).sum().backward()
        optimizer.step()
        change.append((flow.context_map(context) - before).detach().abs()[:, 3:].mean())
    assert change[1] < 0.3 * change[0]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((3, 0), "without a context"),
        ((3, 4, lambda features, context: GaussianModule(features, context)), "of another"),
    ],
)
def test_a_gain_where_it_has_no_meaning_is_refused(arguments, what):
    with pytest.raises(ValueError, match=f"{what}.*has no context_gain"):
        Flow(*arguments, context_gain=0.5)
    with pytest.raises(ValueError, match="without coupling or autoregressive layers.* has no conditioner_gain"):
        Flow(3, 4, "triangular", conditioner_gain=0.5)
    assert not Flow(1, 4, "nsf", conditioner_gain=0.5).conditioners


@pytest.mark.parametrize("name", ["nsf", "nsf-ar", "realnvp", "iaf", "naf"])
def test_a_gain_of_the_conditioners_multiplies_their_last_weights(name):
    flow, context = Flow(3, 4, name, conditioner_gain=0.25).double(), torch.randn(6, 4).double()
    assert PathFlow(3, 4, name, conditioner_gain=0.25).conditioners[0].gain == 0.25
    perturb(flow, 0.5)
    x = flow(context).sample()
    plain = Flow(3, 4, name).double()
    plain.load_state_dict(flow.state_dict())
    assert all(conditioner.gain == 0.25 for conditioner in plain.conditioners), "the weights' own"
    with torch.no_grad():
        for conditioner in plain.conditioners:
            conditioner.linears[-1].weight *= 0.25
            conditioner.take_gain(1.0)
    torch.testing.assert_close(flow(context).log_prob(x), plain(context).log_prob(x))
    before = flow(context).log_prob(x)
    flow.set_conditioner_gain(0.5)
    assert all(conditioner.gain == 0.5 for conditioner in flow.conditioners)
    torch.testing.assert_close(flow(context).log_prob(x), before)


def test_a_gain_of_the_conditioners_makes_their_steps_smaller():
    change = []
    for gain in (1.0, 0.125):
        torch.manual_seed(0)
        flow = Flow(3, 4, "nsf", conditioner_gain=gain).double()
        context, x = torch.randn(200, 4).double(), torch.randn(200, 3).double()
        before = flow(context).log_prob(x)
        optimizer = torch.optim.Adam([conditioner.linears[-1].weight for conditioner in flow.conditioners], 1e-3)
        before.sum().backward()
        optimizer.step()
        change.append((flow(context).log_prob(x) - before).abs().mean())
    assert change[1] < 0.2 * change[0]


def test_a_gain_multiplies_the_weights_of_all_but_the_mean():
    flow = Flow(2, 3, "triangular", context_gain=0.25).double()
    perturb(flow, 0.5)
    plain = Flow(2, 3, "triangular").double()
    plain.load_state_dict(flow.state_dict())
    assert plain.context_map.gain == 0.25, "the weights' own"
    with torch.no_grad():
        plain.context_map.weight[2:] *= 0.25
        plain.context_map.gain = 1.0
    assert PathFlow(2, 3, context_gain=0.25).context_map.gain == 0.25
    for shape in ((5,), (4, 5), ()):
        context = torch.randn(*shape, 3).double()
        torch.testing.assert_close(flow.context_map(context), plain.context_map(context))


@torch.no_grad()
def test_files_of_before_have_no_gain_of_the_conditioners():
    saved, context = Flow(3, 4, "nsf"), torch.randn(5, 4)
    perturb(saved, 0.5)
    before = saved.state_dict()
    for name in [name for name in before if name.endswith("conditioner.weight_gain")]:
        del before[name]
        before._metadata[name.removesuffix(".weight_gain")]["version"] = 1
    flow = Flow(3, 4, "nsf")
    flow.set_conditioner_gain(0.125)  # a policy's default of today
    flow.load_state_dict(before)
    x = torch.randn(5, 3)
    torch.testing.assert_close(flow(context).log_prob(x), saved(context).log_prob(x), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_files_of_before_have_the_gain_of_their_constructor(gain):
    saved = Flow(2, 3, "triangular", context_gain=gain)
    before = saved.state_dict()
    del before["context_map.weight_gain"]
    before._metadata["context_map"]["version"] = 1
    flow, context = Flow(2, 3, "triangular", context_gain=gain), torch.randn(5, 3)
    flow.set_context_gain(0.125)  # a policy's default of today
    assert flow.context_map.gain == 0.125
    flow.load_state_dict(before)
    assert flow.context_map.gain == gain
    torch.testing.assert_close(flow.context_map(context), saved.context_map(context), rtol=0, atol=0)


@torch.no_grad()
def test_files_that_call_the_gain_of_the_context_gain_are_read():
    saved, context = Flow(2, 3, "triangular", context_gain=0.25), torch.randn(5, 3)
    before = saved.state_dict()
    before["context_map.gain"] = before.pop("context_map.weight_gain")
    flow = Flow(2, 3, "triangular")
    flow.load_state_dict(before)
    assert flow.context_map.gain == 0.25
    torch.testing.assert_close(flow.context_map(context), saved.context_map(context), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("of", ["parameters", "layers alone", "state_dict"])
def test_what_is_put_back_is_of_the_gain_that_it_was_taken_with(of):
    flow, context = Flow(2, 3, "nsf"), torch.randn(5, 3)
    flow.set_context_gain(0.125)
    perturb(flow, 0.5)
    before = flow.context_map(context)
    taken = flow.state_dict() if of == "state_dict" else dict(flow.named_parameters())
    if of == "layers alone":
        taken = {name: tensor for name, tensor in taken.items() if name.startswith("layers")}
    flow.load_state_dict({name: tensor.clone() for name, tensor in taken.items()}, strict=of != "layers alone")
    torch.testing.assert_close(flow.context_map(context), before, rtol=0, atol=0)
    torch.func.functional_call(flow, flow.state_dict(), (context,))


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_weights_take_their_gain_into_a_flow_of_another(gain):
    saved, flow, context = Flow(2, 3, context_gain=gain), Flow(2, 3, context_gain=0.5), torch.randn(5, 3)
    perturb(saved, 0.5)
    flow.load_state_dict(saved.state_dict())
    torch.testing.assert_close(flow.context_map(context), saved.context_map(context), rtol=0, atol=0)


def test_another_gain_leaves_the_flow_as_it_is():
    flow, context = Flow(2, 3, "triangular"), torch.randn(5, 3)
    perturb(flow, 0.5)
    before = flow.context_map(context)
    flow.set_context_gain(0.25)
    torch.testing.assert_close(flow.context_map(context), before)


def test_with_a_gain_it_still_starts_as_the_gaussian_that_it_is_given():
    flow, context = Flow(2, 3, "gaussian", context_gain=0.25).double(), torch.randn(5, 3).double()
    mean, log_std = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    flow.set_gaussian(mean.weight, mean.bias, log_std.weight, log_std.bias)
    torch.testing.assert_close(flow.context_map(context), torch.cat((mean(context), log_std(context)), -1))


@pytest.mark.parametrize("gain", [0.0, -1.0, float("inf"), float("nan")])
def test_a_gain_that_is_none_is_refused(gain):
    for name in ("context_gain", "conditioner_gain"):
        with pytest.raises(ValueError, match=f"{name} must be a number above zero"):
            Flow(2, 3, "nsf", **{name: gain})


def test_a_registered_module_is_used_as_it_is(registered):
    flowrl.register_flow("mine", GaussianModule)
    assert "mine" in flowrl.available_flows()
    flow = Flow(2, 3, "mine")
    context = torch.randn(5, 3)
    x, log_prob = flow(context).rsample_and_log_prob()
    torch.testing.assert_close(log_prob, flow.external(context).log_prob(x))
    torch.testing.assert_close(flow(context).mode(), flow.external.linear(context))
    assert flow(context).entropy(8).shape == (5,)
    assert set(flow.state_dict()) == {"external.linear.weight", "external.linear.bias"}
    older = {name.replace("external", "foreign"): tensor + 1 for name, tensor in flow.state_dict().items()}
    flow.load_state_dict(older)
    assert torch.equal(flow.external.linear.bias, older["foreign.linear.bias"])


def test_files_of_before_hold_orders_and_masks_and_still_load():
    for name, buffers in dict(
        triangular=["layers.1.index"], nsf=["layers.0.keep", "layers.1.change"], glow=["layers.1.order"],
        maf=["layers.0.order", "layers.0.conditioner.linears.1.mask"],
    ).items():  # fmt: skip
        flow = Flow(3, 2, name)
        weights = flow.state_dict()
        assert all(tensor.is_floating_point() for tensor in weights.values())
        older = weights | {buffer: flow.get_buffer(buffer).clone() for buffer in buffers}
        torch.nn.ModuleDict({"inside": flow}).load_state_dict({f"inside.{key}": older[key] for key in older})
        older[buffers[0]] = 1 - older[buffers[0]].int()
        with pytest.raises(ValueError, match=f"{buffers[0]} of the saved flow is not this flow's"):
            flow.load_state_dict(older)


def test_zuko_flows_are_accepted_as_they_are(registered):
    zuko = pytest.importorskip("zuko", reason="zuko is a development dependency: pip install -e .[dev]")
    flowrl.register_flow("zuko", lambda d, c: zuko.flows.NSF(d, c, transforms=2, hidden_features=(16,)))
    torch.manual_seed(0)
    flow = Flow(2, 3, "zuko")
    context = torch.randn(5, 3)
    x, log_prob = flow(context).rsample_and_log_prob((4,))
    torch.testing.assert_close(flow(context).log_prob(x), log_prob, atol=1e-4, rtol=1e-4)
    zero = torch.zeros(5, 2)
    torch.testing.assert_close(flow(context).mode(), flow.external(context).transform.inv(zero))


def test_a_distribution_without_a_mean_still_has_a_deterministic_mode():
    class Bimodal(nn.Module):
        def forward(self, context):
            base = Independent(Normal(torch.zeros(len(context), 1), 1.0), 1)
            return TransformedDistribution(base, [SigmoidTransform()])

    class NoMean(nn.Module):
        def forward(self, context):
            distribution = Independent(Normal(torch.zeros(len(context), 1), 1.0), 1)

            class Bare:
                log_prob, rsample = distribution.log_prob, distribution.rsample
                batch_shape = distribution.batch_shape

            return Bare()

    flow = Flow(1, 3, lambda features, context: Bimodal())
    torch.testing.assert_close(flow(torch.randn(5, 3)).mode(), torch.full((5, 1), 0.5))
    flow = Flow(1, 3, lambda features, context: NoMean())
    context = torch.randn(5, 3)
    state = torch.random.get_rng_state()
    assert torch.equal(flow(context).mode(), flow(context).mode())
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state is left alone"


def test_best_of_n_mode_is_denser_than_the_center():
    torch.manual_seed(0)
    flow = Flow(2, 3, "nsf")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    distribution = flow(torch.randn(20, 3))
    assert (distribution.log_prob(distribution.mode(64)) >= distribution.log_prob(distribution.mode()) - 1e-4).all()


def test_bimodal_target_is_fitted_where_a_gaussian_cannot():
    """The reason for a flow: maximum likelihood on two modes beats the best Gaussian by more than 0.4 nats."""
    torch.manual_seed(0)
    side = torch.randint(0, 2, (2000, 1)) * 2.0 - 1.0
    data = torch.cat((side, side), -1) + 0.2 * torch.randn(2000, 2)
    flow = Flow(2, flow="nsf")
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(300):
        loss = -flow().log_prob(data[torch.randint(0, 2000, (256,))]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    gaussian = torch.distributions.MultivariateNormal(data.mean(0), data.T.cov())
    assert flow().log_prob(data).mean() > gaussian.log_prob(data).mean() + 0.4


def test_act_norm_starts_from_data_when_asked():
    torch.manual_seed(0)
    data = torch.tensor([3.0, -5.0]) + torch.tensor([0.5, 4.0]) * torch.randn(1000, 2)
    layer = ActNorm(2)
    layer.initialize(data)
    z, _ = layer(torch.zeros(0)).inverse_and_ladj(data)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(2), atol=1e-4, rtol=0)


def test_a_start_from_data_is_the_best_gaussian():
    torch.manual_seed(0)
    data = torch.tensor([3.0, -5.0]) + torch.tensor([0.5, 4.0]) * torch.randn(1000, 2)
    flow = Flow(2, flow="glow")
    flow.initialize(data)
    best = Independent(Normal(data.mean(0), data.std(0)), 1)
    torch.testing.assert_close(flow().log_prob(data), best.log_prob(data), atol=1e-4, rtol=0)


def test_a_start_from_whole_numbers():
    flow = Flow(1, flow="gaussian")
    flow.initialize(torch.tensor([[0], [1], [5]]))
    assert flow().center().item() == pytest.approx(2)


def test_log_std_bound_is_the_identity_inside_and_smooth_outside():
    inside = torch.linspace(-20, 2, 100)
    assert torch.equal(soft_clamp(inside), inside)
    outside = torch.tensor([-1e3, -21.0, 3.0, 1e3], requires_grad=True)
    bounded = soft_clamp(outside)
    assert (bounded >= -21).all() and (bounded <= 3).all()
    bounded.sum().backward()
    assert (outside.grad[1:3] > 0.1).all()


def test_unknown_flow_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'realnvp'"):
        Flow(2, 3, "realnpv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(features=0), "features must be a whole number of at least 1, got 0"),
        (dict(features=2.0), "features must be a whole number of at least 1, got 2.0"),
        (dict(features=2, context=-1), "context must be a whole number of at least 0"),
        (dict(features=2, context=3.5), "context must be a whole number of at least 0"),
        (dict(features=2, flow="nsf", bin=8), "could not be built with options"),
        (dict(features=2, flow="nsf", bins=1), "bins >= 2"),
        (dict(features=2, flow=3), "must be a name or a builder"),
        (dict(features=2, flow=[AffineTransform(0.0, 1.0)], bins=3), "takes no options"),
        (dict(features=2, flow=["affine"]), "torch.distributions transforms"),
        (dict(features=2, flow=[torch.distributions.AbsTransform()]), "bijective"),
        (dict(features=2, flow=lambda features, context: None), "gave a NoneType: a builder returns a list"),
        (dict(features=2, context=3, context_gain="a"), "context_gain must be a number above zero"),
        (dict(features=2, log_std_max="a"), "log_std_max must be a number above -20"),
        (dict(features=2, log_std_max=-20.0), "log_std_max must be a number above -20"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Flow(**arguments)


@pytest.mark.parametrize(
    "layers", [ActNorm(2), nn.ModuleList([ActNorm(2)]), lambda features, context: ActNorm(features)]
)
def test_one_layer_and_a_module_list_are_flows(layers):
    assert [type(layer) for layer in Flow(2, 3, layers).layers] == [ActNorm]


@pytest.mark.parametrize("name", flowrl.available_flows())
def test_values_of_another_precision_are_cast_and_of_another_size_refused(name):
    flow, value = Flow(3, 0, name), torch.randn(4, 3)
    for method in ("log_prob", "to_noise", "log_det"):
        score = getattr(flow(), method)
        torch.testing.assert_close(score(value.double()), score(value))
        for wrong in (torch.zeros(4, 1), torch.zeros(4, 5), torch.tensor(0.5)):
            with pytest.raises(ValueError, match="A value has 3 numbers"):
                score(wrong)


def test_no_values_at_all_are_a_batch_of_any_shape():
    assert Flow(2, 4)(torch.zeros(0, 5, 4)).rsample().shape == (0, 5, 2)
    assert Flow(2, 4)(torch.zeros(3, 4)).rsample((0,)).shape == (0, 3, 2)


def test_data_wider_than_the_bound_are_warned_of_and_a_larger_bound_holds_them():
    torch.manual_seed(0)
    data = 3 + 100 * torch.randn(1000, 2, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"up to 10\d, .* standardise the data, or give the flow log_std_max=4\.7"):
        Flow(2, flow="gaussian").initialize(data)
    flow = Flow(2, flow="gaussian", log_std_max=4.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow.initialize(data)
        Flow(2, flow="glow").initialize(data)  # whose layers take the rest
    best = Independent(Normal(data.mean(0), data.std(0)), 1)
    torch.testing.assert_close(flow().log_prob(data).double(), best.log_prob(data), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="data that are finite"):
        flow.initialize(data * torch.nan)


def test_wrong_contexts_are_named():
    with pytest.raises(ValueError, match=r"context of size 3, got no context"):
        Flow(2, 3)()
    with pytest.raises(ValueError, match=r"context of size 3, got one of shape \(5, 4\)"):
        Flow(2, 3)(torch.randn(5, 4))
    with pytest.raises(ValueError, match=r"context of size 0, got one of shape"):
        Flow(2)(torch.randn(5, 4))


def test_a_module_that_returns_no_distribution_is_refused():
    with pytest.raises(ValueError, match="has no log_prob"):
        Flow(2, 3, lambda features, context: nn.Linear(context, features))(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"event shape \(2,\)"):
        Flow(2, 3, lambda features, context: GaussianModule(4, context))(torch.randn(5, 3))


def test_torch_transforms_of_scalars_and_vectors_have_one_log_det_per_vector():
    x = torch.randn(5, 3)
    y, ladj = TorchTransform(torch.distributions.ExpTransform()).call_and_ladj(x)
    torch.testing.assert_close(ladj, x.sum(-1))
    torch.testing.assert_close(TorchTransform(torch.distributions.ExpTransform()).inverse_and_ladj(y)[0], x)


def test_one_value_is_scored_under_a_batch_of_contexts_and_the_reverse():
    for name in flowrl.available_flows():
        flow = Flow(2, 3, name)
        context, x = torch.randn(5, 3), torch.randn(5, 2)
        torch.testing.assert_close(flow(context).log_prob(x[0]), flow(context).log_prob(x[0].expand(5, 2)))
        torch.testing.assert_close(flow(context[:1]).log_prob(x), flow(context[:1].expand(5, 3)).log_prob(x))


def test_two_flows_of_one_list_share_nothing():
    layers = [ActNorm(2)]
    first, second = Flow(2, 3, layers), Flow(2, 3, layers)
    with torch.no_grad():
        first.layers[0].shift += 1
    assert second.layers[0].shift.abs().sum() == 0 and layers[0].shift.abs().sum() == 0


@pytest.mark.parametrize("gain", [0.0, float("nan")])
def test_a_broken_gain_is_refused_where_it_is_loaded(gain):
    flow = Flow(2, 3, "nsf")
    broken = flow.state_dict() | {"layers.0.conditioner.weight_gain": torch.tensor(gain)}
    with pytest.raises(ValueError, match=r"layers.0.conditioner.weight_gain of the saved flow is"):
        flow.load_state_dict(broken)


class Stretch(torch.distributions.transforms.Transform, torch.nn.Module):
    """A transform that is a module, as those of pyro."""

    domain = codomain = torch.distributions.constraints.real_vector
    bijective = True

    def __init__(self):
        torch.nn.Module.__init__(self)
        torch.distributions.transforms.Transform.__init__(self)
        self.log_scale = torch.nn.Parameter(torch.zeros(2))

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other

    def _call(self, x):
        return x * self.log_scale.exp()

    def _inverse(self, y):
        return y * (-self.log_scale).exp()

    def log_abs_det_jacobian(self, x, y):
        return self.log_scale.sum().expand(x.shape[:-1])


@pytest.mark.parametrize(
    "transform",
    [Stretch, lambda: AffineTransform(torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2)))],
    ids=["module", "parameters"],
)
def test_what_a_torch_transform_holds_is_trained_saved_and_copied(transform):
    flow = Flow(2, flow=[transform()])
    own = [p for name, p in flow.named_parameters() if not name.startswith("context_map")]
    assert own
    flow().log_prob(torch.randn(5, 2)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
    with torch.no_grad():
        for p in own:
            p += 0.3
    value = torch.randn(5, 2)
    other = Flow(2, flow=[transform()])
    other.load_state_dict(flow.state_dict())
    for same in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(same().log_prob(value), flow().log_prob(value))
    copied = copy.deepcopy(flow)
    with torch.no_grad():
        for p in own:
            p += 1.0
    torch.testing.assert_close(copied().log_prob(value), other().log_prob(value))


def test_tensors_of_a_torch_transform_move_with_the_flow():
    flow = Flow(2, flow=[AffineTransform(torch.zeros(2), torch.full((2,), 2.0))])
    flow().log_prob(torch.zeros(2))  # from then on the transform knows its inverse
    flow.double()
    assert flow().log_prob(torch.randn(3, 2, dtype=torch.float64)).dtype == torch.float64
    assert flow.layers[0].transform.transform.scale.dtype == torch.float64


def test_a_builder_may_give_inverses_and_one_transform_twice():
    shared = torch.nn.Parameter(torch.zeros(2))
    once = AffineTransform(shared, 2.0)
    flow = Flow(2, flow=lambda features, context: [once, torch.distributions.TanhTransform().inv, once])
    assert sum(p is shared for p in flow.parameters()) == 1, "the caller's own, counted once"
    x, log_prob = Flow(2, flow=lambda features, context: [once])().rsample_and_log_prob((3,))
    assert x.shape == (3, 2) and log_prob.shape == (3,)


@pytest.mark.parametrize("given", ["list", "builder", "distribution"])
def test_inverses_and_caches_of_torch_survive_copies_after_use(given):
    """torch's own inverse of a transform forgets in a copy what it inverts, and a cache holds what cannot be copied."""
    there = ComposeTransform([AffineTransform(0.1, 0.8), TanhTransform(cache_size=1)])
    steps = [AffineTransform(nn.Parameter(torch.zeros(2)), 2.0), TanhTransform(cache_size=1), there.inv]
    base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    parts = {
        "list": steps,
        "builder": lambda features, context: steps,
        "distribution": lambda features, context: TransformedDistribution(base, steps),
    }
    flow = Flow(2, flow=parts[given]).double()
    value, log_prob = flow().rsample_and_log_prob((5,))
    for same in (flow, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(same().log_prob(value.detach()), log_prob)


@pytest.mark.parametrize("listed", [True, False])
def test_a_tensor_computed_from_a_parameter_is_refused_in_a_transform(listed):
    parts = [AffineTransform(2 * torch.nn.Parameter(torch.zeros(2)), 1.0)]
    with pytest.raises(ValueError, match="AffineTransform.loc is computed from a parameter .* flowrl.layers.Layer"):
        Flow(2, flow=parts if listed else lambda features, context: parts)


def test_parameters_that_are_put_in_place_of_a_transforms_are_followed():
    flow = Flow(2, flow=[AffineTransform(torch.nn.Parameter(torch.zeros(2)), 1.0)])
    state = {name: value + 1.0 if "holder" in name else value for name, value in flow.state_dict().items()}
    value = torch.randn(3, 2)
    moved = flow().log_prob(value - 1.0)
    found = torch.func.functional_call(flow, state, ()).log_prob(value)
    torch.testing.assert_close(found, moved)
    flow.load_state_dict(state, assign=True)
    torch.testing.assert_close(flow().log_prob(value), moved)


@pytest.mark.parametrize("name", ["triangular", "nsf", "radial"])
def test_a_flow_expands_as_torchs_distributions_do(name):
    flow = Flow(2, flow=name)
    perturb(flow, 0.3)
    value = torch.randn(4, 5, 2)
    expanded = flow().expand((5,))
    assert expanded.batch_shape == (5,) and expanded.sample((4,)).shape == (4, 5, 2)
    torch.testing.assert_close(expanded.log_prob(value), flow().log_prob(value))
    within = torch.distributions.TransformedDistribution(flow(), [AffineTransform(torch.zeros(5, 2), 2.0)])
    torch.testing.assert_close(within.log_prob(value), flow().log_prob(value / 2) - 2 * math.log(2))


@pytest.mark.parametrize("order", [[0, 0], [1, 2], [0, 2, 3], [1.0, 0.0]])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="has each of 0"):
        Reorder(torch.tensor(order))


def test_transforms_that_refer_to_each_other_are_copied():
    there = AffineTransform(0.1, 0.8)
    there.partner = TanhTransform(cache_size=1)
    there.partner.partner, there.pair = there, (there, there.partner)
    flow = Flow(2, flow=[there])
    x, log_prob = flow().rsample_and_log_prob((3,))
    torch.testing.assert_close(copy.deepcopy(flow)().log_prob(x.detach()), log_prob)
