"""scikit-learn's handwritten digits, which come with the package: the images of glow.py and vae.py."""

import torch
from torch import Tensor


def shuffled_digits(seed: int) -> Tensor:
    """
    All images in random order.

    :param seed: of the order
    :return: grey levels from 0 to 16 of 8 x 8 pixels, shape ``(1797, 64)``
    :raises ImportError: where scikit-learn is missing
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come from scikit-learn: pip install scikit-learn") from error
    images = torch.as_tensor(load_digits().data, dtype=torch.get_default_dtype())
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
