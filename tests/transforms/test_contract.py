"""The contract of every transform: bijective, with the log-determinant of autograd's Jacobian, fused or not."""

import copy
import pickle

import pytest
import torch
from torch.distributions import ComposeTransform, Independent, Normal, TransformedDistribution

from tests.transforms.cases import CASES, compose_with_inverse, make_layer, make_transform

# As they start, at one dimension, and moved, at all of them.
SPREAD_CASES = [pytest.param(name, d, 0.3, id=f"{name}-{d}") for name, d in CASES]
SPREAD_CASES += [pytest.param(name, d, 0.0, id=f"{name}-{d}-untrained") for name, d in CASES if d in (3, 4)]
cases = pytest.mark.parametrize(("name", "d"), CASES, ids=[f"{name}-{d}" for name, d in CASES])
spreads = pytest.mark.parametrize(("name", "d", "spread"), SPREAD_CASES)

pytestmark = pytest.mark.usefixtures("float64")


@spreads
def test_round_trip(name, d, spread):
    transform = make_transform(name, d, spread)
    x = 2 * torch.randn(5, 6, d)
    y, ladj = transform.call_and_ladj(x)
    x_back, ladj_back = transform.inverse_and_ladj(y)
    torch.testing.assert_close(x_back, x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(ladj_back, ladj, atol=1e-7, rtol=1e-8)
    identity, zero = compose_with_inverse(transform).call_and_ladj(x)
    torch.testing.assert_close(identity, x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(zero, torch.zeros(5, 6), atol=1e-7, rtol=0)


@spreads
def test_log_determinant_is_that_of_the_jacobian(name, d, spread):
    transform = make_transform(name, d, spread)
    x = torch.randn(6, d)
    y, ladj = transform.call_and_ladj(x)
    # Rows of the batch are independent, so that the Jacobian of the sum over the batch holds each row's own.
    jacobian = torch.autograd.functional.jacobian(lambda x: transform.call_and_ladj(x)[0].sum(0), x)
    assert (torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet - ladj).abs().max() < 1e-8
    inverse = torch.autograd.functional.jacobian(lambda y: transform.inverse_and_ladj(y)[0].sum(0), y.detach())
    assert (torch.linalg.slogdet(inverse.movedim(1, 0)).logabsdet + ladj).abs().max() < 1e-7


@cases
def test_is_a_torch_transform(name, d):
    transform = make_transform(name, d, 0.3)
    x = torch.randn(6, d)
    y, ladj = transform.call_and_ladj(x)
    torch.testing.assert_close(transform(x), y)
    torch.testing.assert_close(transform.inv(y), x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(transform.log_abs_det_jacobian(x, y), ladj)
    base = Independent(Normal(torch.zeros(6, d), torch.ones(6, d)), 1)
    log_prob = TransformedDistribution(base, [transform], validate_args=False).log_prob(y)
    torch.testing.assert_close(log_prob, base.log_prob(x) - ladj, atol=1e-7, rtol=1e-7)


@cases
def test_any_leading_shape(name, d):
    transform = make_transform(name, d, 0.3)
    for leading in ((), (4,), (2, 3)):
        x = torch.randn(*leading, 6, d)
        for one_pass in (transform.call_and_ladj, transform.inverse_and_ladj):
            value, ladj = one_pass(x.tanh())
            assert value.shape == x.shape
            assert ladj.shape == x.shape[:-1]


@cases
@pytest.mark.parametrize("leading", [(), (1,)], ids=str)
def test_one_value_under_all_contexts(name, d, leading):
    transform, x = make_transform(name, d, 0.3), torch.randn(*leading, d).tanh()
    for one_pass in (transform.call_and_ladj, transform.inverse_and_ladj):
        value, ladj = one_pass(x)
        assert ladj.shape == value.shape[:-1]
        assert value.shape in ((6, d), x.shape)
        for got, expected in zip((value, ladj.unsqueeze(-1)), one_pass(x.expand(6, d))):
            torch.testing.assert_close(got.expand(6, -1), expected.view(6, -1))


@cases
def test_remembers_its_last_value_where_it_is_asked_to(name, d):
    transform = make_transform(name, d, 0.3)
    assert transform.with_cache(0) is transform
    x = torch.randn(6, d)
    for cached in (transform.with_cache(), ComposeTransform([transform], cache_size=1)):
        y = cached(x)
        torch.testing.assert_close(y, transform(x))
        assert cached.inv(y) is x
    with pytest.raises(ValueError, match="cache_size must be 0 or 1"):
        transform.with_cache(2)


@pytest.mark.parametrize(("name", "d"), [case for case in CASES if case[1] in (1, 3, 4)])
def test_gradients_reach_input_and_parameters_and_agree_with_finite_differences(name, d):
    layer, parameters = make_layer(name, d, 0.3)
    if name == "continuous":
        layer.steps = 4  # what these few compute has gradients just as exact
    parameters, x = parameters[:2].clone(), torch.randn(2, d).clamp(-1.5, 1.5)

    def both_passes(parameters, x):
        transform = layer(parameters)
        y, ladj = transform.call_and_ladj(x)
        x_back, ladj_back = transform.inverse_and_ladj(torch.tanh(x))
        return y, ladj, x_back, ladj_back

    assert torch.autograd.gradcheck(both_passes, (parameters.requires_grad_(), x.requires_grad_()), atol=1e-5)


@cases
def test_extreme_inputs_in_float32(name, d):
    torch.set_default_dtype(torch.float32)
    layer, parameters = make_layer(name, d, 0.3)
    parameters.requires_grad_()
    signs, magnitude = torch.randn(4, 6, d).sign(), torch.tensor([20.0, 1e3, 1e6, 1e30])[:, None, None]
    x = (magnitude * signs).requires_grad_()
    y, ladj = layer(parameters).call_and_ladj(x)
    assert y.isfinite().all() and ladj.isfinite().all()
    inside = torch.tensor(0.999) * signs if "tanh" in name else magnitude * signs
    x_back, ladj_back = layer(parameters).inverse_and_ladj(inside)
    assert x_back.isfinite().all() and ladj_back.isfinite().all()
    gradients = torch.autograd.grad(
        ladj.sum() + y.sum() + x_back.sum() + ladj_back.sum(),
        (parameters, x),
        allow_unused=True,
        materialize_grads=True,
    )
    assert all(gradient.isfinite().all() for gradient in gradients)


@cases
def test_copies_and_pickles_after_use(name, d):
    layer, parameters = make_layer(name, d, 0.3)
    x = torch.randn(6, d)
    y, _ = layer(parameters).call_and_ladj(x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(copied(parameters).call_and_ladj(x)[0], y)


@cases
def test_gradients_are_the_same_in_train_and_eval_mode(name, d):
    layer, parameters = make_layer(name, d, 0.3)
    x = torch.randn(6, d)
    gradients = []
    for mode in (True, False):
        leaves = [parameters.clone().requires_grad_(), x.tanh().requires_grad_(), *layer.parameters()]
        x_back, ladj = layer.train(mode)(leaves[0]).inverse_and_ladj(leaves[1])
        total = x_back.square().sum() + ladj.sum()
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    for train, evaluation in zip(*gradients, strict=True):
        assert torch.equal(train, evaluation)
