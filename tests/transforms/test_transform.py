"""Transforms of transforms, and torch's: supports, shapes and refusals, as `torch.distributions` asks for them."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, TransformedDistribution, constraints
from torch.distributions import transforms as torch_transforms

from flowrl.flows.flow import Flow
from flowrl.transforms import Affine, Compose, Inverse, TanhBox, TorchTransform

BASE = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
EXP = TorchTransform(torch_transforms.ExpTransform())


@pytest.mark.parametrize(
    "transform", [TanhBox(), Compose([EXP, Inverse(EXP), TanhBox()]), Inverse(Inverse(TanhBox()))], ids=repr
)
def test_a_value_outside_the_codomain_is_refused(transform):
    distribution = TransformedDistribution(BASE, [transform], validate_args=True)
    distribution.log_prob(torch.tensor([0.3, 0.0]))
    with pytest.raises(ValueError, match="within the support"):
        distribution.log_prob(torch.tensor([3.0, 0.0]))


@pytest.mark.parametrize(
    ("transform", "domain", "codomain"),
    [
        (Inverse(TanhBox()), TanhBox().codomain, constraints.real_vector),
        (Compose([]), constraints.real_vector, constraints.real_vector),
        (Compose([Inverse(TanhBox()), EXP]), TanhBox().codomain, EXP.codomain),
        (EXP, constraints.real_vector, constraints.independent(constraints.positive, 1)),
    ],
    ids=repr,
)
def test_domain_and_codomain_are_those_of_the_parts(transform, domain, codomain):
    for x in (torch.tensor([0.3, 0.9]), torch.tensor([2.0, 0.5]), torch.tensor([-0.3, 0.5])):
        assert transform.domain.check(x) == domain.check(x) and transform.domain.event_dim == 1
        assert transform.codomain.check(x) == codomain.check(x) and transform.codomain.event_dim == 1


AFFINE = Affine(torch.zeros(6, 2), torch.ones(6, 2))


@pytest.mark.parametrize(
    "transform",
    [
        AFFINE,
        Inverse(AFFINE),
        Compose([TanhBox(), AFFINE]),
        TorchTransform(torch_transforms.AffineTransform(torch.zeros(6, 1), torch.ones(2))),
    ],
    ids=repr,
)
def test_a_batch_of_parameters_makes_a_batch_of_distributions(transform):
    distribution = TransformedDistribution(BASE, [transform], validate_args=False)
    assert distribution.batch_shape == (6,) and distribution.event_shape == (2,)
    value = distribution.rsample((3,))
    assert value.shape == (3, 6, 2) and distribution.log_prob(value).shape == (3, 6)
    for one_pass in (transform.call_and_ladj, transform.inverse_and_ladj):
        image, ladj = one_pass(torch.full((2,), 0.3))
        assert image.shape == (6, 2) and ladj.shape == (6,)


@pytest.mark.parametrize("log_scale", [torch.tensor(0.5), torch.tensor([0.5]), torch.full((6, 1), 0.5)], ids=str)
def test_one_scale_of_all_features_counts_for_each(log_scale):
    one, each = Affine(torch.zeros(1), log_scale), Affine(torch.zeros(3), log_scale.expand(6, 3))
    for direction in ("call_and_ladj", "inverse_and_ladj"):
        x = torch.randn(6, 3)
        torch.testing.assert_close(getattr(one, direction)(x), getattr(each, direction)(x))


def test_the_codomain_of_a_box_moves_with_its_edges():
    box = TanhBox(-torch.ones(2), torch.ones(2))
    flow = Flow(2, flow=[torch_transforms.ComposeTransform([torch_transforms.AffineTransform(0.5, 2.0), box])])
    value = torch.zeros(4, 2, device="meta")
    assert flow.to("meta")().log_prob(value).device == value.device


@pytest.mark.parametrize(
    ("transform", "low", "high"),
    [
        (torch_transforms.ExpTransform(), 0.0, math.inf),
        (torch_transforms.SigmoidTransform(), 0.0, 1.0),
        (torch_transforms.TanhTransform(), -1.0, 1.0),
        (torch_transforms.SoftplusTransform(), 0.0, math.inf),
    ],
    ids=repr,
)
def test_outside_of_its_image_a_flow_has_no_density_and_gradients_are_numbers(transform, low, high):
    flow, mean, std = Flow(2, 3, [transform]), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])
    flow.set_gaussian(torch.zeros(2, 3), mean, None, std.log())
    y = torch.tensor([[0.3, 0.9], [0.3, low - 0.1], [min(high, 9.0) + 0.1, 0.3], [math.nan, 0.9]])
    log_prob = flow(torch.randn(4, 3)).log_prob(mean + std * y)
    own = TransformedDistribution(BASE, [torch_transforms.IndependentTransform(transform, 1)])
    torch.testing.assert_close(log_prob[0], own.log_prob(y[0]) - std.log().sum(), atol=1e-4, rtol=1e-4)
    assert log_prob[1] == -torch.inf and (log_prob[2] == -torch.inf) == (high < math.inf) and log_prob[3].isnan()
    some = flow(torch.randn(2, 3)).log_prob(mean + std * y[:2])
    some[some.isfinite()].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


@pytest.mark.parametrize(
    ("transform", "end"),
    [
        (torch_transforms.TanhTransform(), 1.0),
        (torch_transforms.TanhTransform(), -1.0),
        (torch_transforms.CumulativeDistributionTransform(Normal(0.0, 1.0)), 1.0),
    ],
    ids=repr,
)
def test_at_the_end_of_its_image_a_flow_has_no_density_and_gradients_are_numbers(transform, end):
    flow = Flow(2, flow=[transform])
    log_prob = flow().log_prob(torch.tensor([[0.3, end], [0.3, 0.4]]))
    assert log_prob[0] == -torch.inf and log_prob[1].isfinite()
    log_prob[1].backward()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


STICKS = torch_transforms.StickBreakingTransform()


@pytest.mark.parametrize(
    "transform", [STICKS, STICKS.inv, torch_transforms.ComposeTransform([AFFINE, STICKS])], ids=repr
)
def test_a_transform_that_changes_the_number_of_features_is_refused(transform):
    with pytest.raises(ValueError, match="cannot be used in a flow: its vectors x and y differ in size"):
        TorchTransform(transform)


@pytest.mark.parametrize(
    "transform",
    [
        torch_transforms.AffineTransform(torch.zeros(3), torch.ones(4, 3), event_dim=1),
        torch_transforms.ComposeTransform(
            [torch_transforms.ReshapeTransform((4,), (2, 2)), torch_transforms.ReshapeTransform((2, 2), (4,))]
        ),
    ],
    ids=repr,
)
def test_one_that_broadcasts_or_takes_one_size_alone_is_not(transform):
    TorchTransform(transform)
