"""Flows of other libraries, tried as training will use them before anything is trained."""

import copy

import torch

from flowrl.flows.flow import Flow


@torch.no_grad()
def try_in_training(flow: Flow, scores: bool) -> None:
    """
    Ask a copy in training mode for what the algorithm will; a flow of this library's layers needs no trial.

    :param flow: of a policy; torch's random numbers are left alone
    :param scores: whether the algorithm asks for log-probs of given actions
    :raises ValueError: where it gives no distribution, no samples or no such log-probs
    """
    if flow.starts_as_gaussian:
        return
    try:
        tried = copy.deepcopy(flow).train()
    except RuntimeError:  # torch's older weight_norm keeps a tensor that cannot be copied
        return
    like = next(tried.parameters(), torch.zeros(()))
    method = "rsample"
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        pi = tried(like.new_zeros(2, flow.context))
        try:
            actions = pi.rsample()
            if scores:
                method = "log_prob"
                pi.log_prob(actions.clone())  # a clone, which is in no transform's cache
            else:
                method = "rsample_and_log_prob"
                pi.rsample_and_log_prob()
        except Exception as error:  # whatever another library says where it has none
            what = "samples and log-probs of given actions" if scores else "samples and their log-probs"
            raise ValueError(
                f'policy_kwargs["flow"] must give {what} in training, and its {method} fails ({error!r}): "nsf", '
                '"realnvp" and "triangular" give both.'
            ) from error
