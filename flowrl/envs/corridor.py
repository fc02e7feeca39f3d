"""Two lanes past an obstacle, one of them closed and nobody knows which: a policy must take now one, now the other.

Carts are coupled side by side, and each action dimension pulls one of them; all carts must enter the same lane. At the
start of every try the observation is the same, so that a policy without memory enters the upper lane with some
probability p and the lower with q, p + q <= 1, whatever was closed a moment ago. Where it keeps to its lane, T tries
give

    success = 1/2 (1 - (1 - p)^T) + 1/2 (1 - (1 - q)^T),

concave in both: at best p = q = 1/2, success 1 - 2^-T, 0.984 for six tries. A deterministic policy has 1/2.

A policy whose action dimensions are independent, a diagonal Gaussian for one, moves G carts independently. Let p_k and
q_k be cart k's probabilities of the two lanes, p_k + q_k <= 1. Then p = prod p_k and q = prod q_k, and by the
inequality of arithmetic and geometric means

    p^(1/G) + q^(1/G) <= 1/G sum_k (p_k + q_k) <= 1:

for three carts and six tries that allows a success of at most 0.551, at p = q = 1/8, whatever the shape of each
dimension's density. With two dimensions, and so two carts, it allows 0.822, at p = q = 1/4: that is where a flow gets
stuck that bends each dimension for itself. Not so a squashed Gaussian: it has one peak, or two at the edges, which are
walls here. :meth:`Corridor.gaussian_optimum` searches: 0.506.

Nor can a policy that sees its state split the decision into small steps, of which the first breaks the tie by chance:
the obstacle stands right before the start, and the first step is in a lane or in the obstacle.

A temperature must be small: a maximum-entropy agent is paid alpha times up to d log 2 nats for every step, and who
fails at random takes more of them. That pays more than to spread over both lanes from alpha of about 0.09 (2
dimensions), 0.05 (8) and 0.03 (17) on.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from flowrl.envs.quadrature import squashed_normal_probability, squashed_normals
from flowrl.options import whole

CARTS = 3  # or as many as there are dimensions, if fewer
OBSTACLE, WALL = 0.2, 0.8  # a lane reaches from one to the other, above and below
DRIFT = 0.2  # how far a pull of 1 moves a cart within a lane; it moves by 1 at the start


class Corridor(gym.Env):
    """
    Steer coupled carts through the open one of two lanes.

    A cart is pulled by sum_i a_i / sqrt(n), over its n dimensions: several of them are correlated by what they do. The
    first step moves every cart sideways by its pull, each further step by a fifth of it, and all of them forward; it
    fails unless all carts are in the same lane. At the end of the open lane the reward is 1 and the episode ends. At
    the end of the closed one, as in the obstacle and the walls, the carts are back at the start, with one try less; the
    last failure terminates. Both lanes are as long and as wide.

    Observation: how far the carts are along the lane, from 0 to 1, and where each is across, from -1 to 1. ``info``
    holds ``is_success``, and ``open``, 1 for the upper lane and -1 for the lower.

    :param dimensions: of the action, 2 to 17; shared out evenly among three carts, or two for two dimensions
    :param tries: in an episode
    :param length: steps in a try
    :param render_mode: ``"rgb_array"``
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(self, dimensions: int = 2, tries: int = 6, length: int = 2, render_mode: str | None = None) -> None:
        whole("dimensions", dimensions, 2, 17)
        self.tries, self.length = whole("tries", tries, 1), whole("length", length, 1)
        self.render_mode = render_mode
        self.carts = np.array_split(np.arange(dimensions), min(dimensions, CARTS))  # each one's dimensions
        self.observation_space = spaces.Box(-1.0, 1.0, (1 + len(self.carts),))
        self.action_space = spaces.Box(-1.0, 1.0, (dimensions,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], dict]:
        super().reset(seed=seed)
        self.open = int(self.np_random.choice((-1, 1)))
        self.failures = 0
        self._return_to_start()
        return self._observe(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict]:
        action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        pulls = np.array([action[cart].sum() / np.sqrt(len(cart)) for cart in self.carts])
        start = len(self.track) == 1
        self.track.append(self.track[-1] + (1.0 if start else DRIFT) * pulls)
        if start:
            self.lane = int(np.sign(self.track[-1][0]))
        across = self.lane * self.track[-1]
        in_lane = bool((across > OBSTACLE).all() and (across < WALL).all())
        at_end = in_lane and len(self.track) > self.length
        success = at_end and self.lane == self.open
        if not success and (at_end or not in_lane):
            self.failures += 1
            self._return_to_start()
        terminated = success or self.failures == self.tries
        return self._observe(), float(success), terminated, False, dict(is_success=success, open=self.open)

    def _return_to_start(self) -> None:
        self.track = [np.zeros(len(self.carts))]
        self.lane = 0

    def _observe(self) -> NDArray[np.float32]:
        return np.append((len(self.track) - 1) / self.length, self.track[-1]).astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        from flowrl.envs.picture import pixels, square_axes

        axes = square_axes(1.0)
        places = np.linspace(-0.9, 0.8, 1 + self.length)  # along the lanes, which begin where the first step ends
        for low, high in ((-1.0, -WALL), (-OBSTACLE, OBSTACLE), (WALL, 1.0)):
            axes.fill_between([places[1], 1.0], low, high, color="0.6")
        gate = np.multiply(-self.open, [OBSTACLE, WALL])  # across the closed lane
        axes.plot([0.9, 0.9], gate, color="#d95f02", linewidth=5)
        axes.plot(places[: len(self.track)], self.track, color="#08519c", marker="o")
        return pixels(axes)

    def optimum(self) -> float:
        """
        The best success of a policy without memory.

        :return: 1 - 2^-T
        """
        return float(self.success(0.5, 0.5))

    def success(self, upper: NDArray[np.float64] | float, lower: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """
        The success of a policy.

        :param upper: its probability of passing the upper lane in one try, if that is open, shape ``(*,)``
        :param lower: of passing the lower one, shape ``(*,)``
        :return: 1/2 (1 - (1 - p)^T) + 1/2 (1 - (1 - q)^T), shape ``(*,)``
        """
        failures = (1 - np.asarray(upper)) ** self.tries + (1 - np.asarray(lower)) ** self.tries
        return np.asarray(1 - failures / 2)

    def gaussian_optimum(self) -> float:
        """
        The best success of a = tanh(u), u a diagonal Gaussian in each state.

        A cart with one dimension has the probabilities of the lanes that the search over means and deviations finds. To
        a cart with several, whose pull is a sum, every p_k + q_k <= 1 is granted: from four dimensions on the result is
        an upper bound.

        :return: the success
        """
        upper, lower = np.ones(1), np.ones(1)
        for cart in self.carts:
            p, q = _lane_probabilities() if len(cart) == 1 else (np.linspace(0, 1, 201), np.linspace(1, 0, 201))
            upper, lower = _frontier(np.outer(upper, p).ravel(), np.outer(lower, q).ravel())
        return float(self.success(upper, lower).max())


def _lane_probabilities() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities of the upper and the lower lane for squashed normals, those that no other one exceeds in both."""
    mean, std = squashed_normals()
    low, high = np.array(OBSTACLE), np.array(WALL)
    upper = squashed_normal_probability(low, high, mean, std)
    return _frontier(upper, squashed_normal_probability(-high, -low, mean, std))


def _frontier(
    upper: NDArray[np.float64], lower: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The pairs that no other one exceeds in both (success grows with both)."""
    order = np.lexsort((-lower, -upper))
    upper, lower = upper[order], lower[order]
    best_before = np.concatenate(([-np.inf], np.maximum.accumulate(lower)[:-1]))
    return upper[lower > best_before], lower[lower > best_before]
