"""Take a policy elsewhere: to a file that is safe to open, to ONNX, to the Hugging Face Hub."""

import importlib.util

if importlib.util.find_spec("safetensors") is None:
    raise ImportError("flowrl.export needs safetensors: pip install safetensors")

from flowrl.export.allowed import allow
from flowrl.export.hub import from_hub, push_to_hub, write_model_folder
from flowrl.export.model_card import Evaluation
from flowrl.export.onnx import ONNX_FLOWS, to_onnx
from flowrl.export.safetensors import load_policy, save_policy

__all__ = [
    "ONNX_FLOWS",
    "Evaluation",
    "allow",
    "from_hub",
    "load_policy",
    "push_to_hub",
    "save_policy",
    "to_onnx",
    "write_model_folder",
]
