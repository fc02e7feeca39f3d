"""Take a policy elsewhere: to a file that is safe to open, to ONNX, to the Hugging Face Hub."""

import importlib.util

if importlib.util.find_spec("safetensors") is None:
    raise ImportError("flowrl.export needs its extra: pip install 'flowrl[export]'")

from flowrl.export.allowed import allow
from flowrl.export.safetensors import load_policy, save_policy

__all__ = ["allow", "load_policy", "save_policy"]
