"""Torch's private names say what the kernels take them to say: seen in torch 2.13, and where they change this fails."""

import torch
from torch._subclasses import FakeTensorMode

from flowrl.kernels.torch_internals import has_global_hooks, is_batched, is_traced


def test_every_onlooker_is_seen():
    seen = []

    def look(x):
        seen.append(is_traced())
        return x

    x = torch.ones(2)
    look(x)
    torch.func.vmap(look)(x)
    torch.jit.trace(look, (x,), check_trace=False)
    with FakeTensorMode():
        look(x)
    with torch.autograd.forward_ad.dual_level():
        look(x)
    look(x)
    assert seen == [False, True, True, True, True, False]


def test_batched_gradients_are_seen():
    x = torch.ones(3, requires_grad=True)
    seen = []
    y = x * 2
    y.register_hook(lambda g: seen.append(is_batched(g)))
    torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(3))
    assert seen == [True, False]


def test_hooks_of_all_modules_are_seen():
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert has_global_hooks()
    handle.remove()
    assert not has_global_hooks()
