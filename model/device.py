"""The choice of the device that a network runs on."""

import logging

import torch

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Returns the torch device of that name; `auto` is a GPU if torch sees one, else the CPU.

    Raises ValueError if that GPU is absent.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if seen else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise ValueError(
            f"torch sees no {name} ({seen} GPUs are visible to it): say --device cpu, or install "
            "the CUDA build"
        )
    log.info("device: %s", name)
    return device
