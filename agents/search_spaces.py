"""What ``experiments/tune.py`` searches over: for each table of hyperparameters the values that are worth trying.

A key is one of ``run.py --set``. Values are texts as one types them, or numbers within limits.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Between:
    """
    A number.

    :param low: the least
    :param high: the most
    :param log: whether its logarithm is what is searched evenly
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """
    One of a few values.

    :param values: as one types them
    """

    values: tuple[str, ...]


Space = dict[str, Between | OneOf]

FLOW: Space = {"policy_kwargs.flow": OneOf(("triangular", "nsf", "realnvp", "affine"))}

NORMALIZE = "policy_kwargs.normalize_observations"
OFF_POLICY: Space = {
    "learning_rate": Between(1e-4, 3e-3, log=True),
    "gamma": OneOf(("0.98", "0.99", "0.995")),
    "tau": Between(0.002, 0.05, log=True),
    "batch_size": OneOf(("128", "256", "512")),
    "learning_starts": OneOf(("1000", "5000", "10000")),
    "ent_coef": OneOf(("auto", "auto_0.1", "auto_0.01")),
    "target_entropy": OneOf(("auto", "auto_0.5", "auto_1.5")),
    "policy_kwargs.net_arch": OneOf(("[256,256]", "[400,300]", "[256,256,256]")),
    NORMALIZE: OneOf(("True", "False")),
}

ON_POLICY: Space = {
    "learning_rate": Between(3e-5, 3e-3, log=True),
    "gamma": OneOf(("0.98", "0.99", "0.995")),
    "gae_lambda": OneOf(("0.9", "0.95", "0.98")),
    "ent_coef": Between(1e-8, 0.02, log=True),
    "max_grad_norm": OneOf(("0.5", "1", "2")),
}

SEARCH_SPACES: dict[str, Space] = {
    # Without what is flowrl's alone
    "sac": {key: values for key, values in OFF_POLICY.items() if key not in ("target_entropy", NORMALIZE)},
    "flow-sac": OFF_POLICY,
    "nfac": OFF_POLICY | {"critic": OneOf(("categorical", "flow", "quantile")), "policy_delay": OneOf(("1", "2"))},
    "nfq": {key: OFF_POLICY[key] for key in ("learning_rate", "gamma", "tau", "batch_size", "policy_kwargs.net_arch")}
    | {"ent_coef": Between(0.005, 1.0, log=True), "flow_lr_scale": Between(0.03, 1.0, log=True)},
    "ppo": ON_POLICY
    | {
        "n_steps": OneOf(("512", "1024", "2048")),
        "batch_size": OneOf(("64", "128", "256")),
        "n_epochs": OneOf(("5", "10", "20")),
        "clip_range": OneOf(("0.1", "0.2", "0.3")),
    },
    "a2c": ON_POLICY | {"n_steps": OneOf(("5", "8", "16", "32"))},
    "trpo": {key: ON_POLICY[key] for key in ("learning_rate", "gamma", "gae_lambda")}
    | {"target_kl": OneOf(("0.005", "0.01", "0.03")), "n_steps": OneOf(("512", "1024", "2048"))},
}


def search_space(table: str, has_flow: bool, only: list[str] | None = None) -> Space:
    """
    The search space of an agent.

    :param table: of its hyperparameters: ``"sac"``, ``"flow-sac"``, ``"nfac"``, ``"nfq"``, ``"ppo"``, ``"a2c"`` or
        ``"trpo"``
    :param has_flow: whether its flow is searched too; SB3's own agents have none
    :param only: some of the keys
    :return: the space
    :raises ValueError: for a table without one, and for keys that are not in it
    """
    if table not in SEARCH_SPACES:
        raise ValueError(
            f"there is no search space for {table!r}: agents/search_spaces.py has {', '.join(SEARCH_SPACES)}"
        )
    space: dict[str, Any] = SEARCH_SPACES[table] | (FLOW if has_flow else {})
    missing = [key for key in only or () if key not in space]
    if missing:
        raise ValueError(f"the search space has no {', '.join(missing)}; it has {', '.join(space)}")
    return {key: value for key, value in space.items() if only is None or key in only}
