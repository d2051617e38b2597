"""Where the network runs."""

import torch


def pick_device(name: str | torch.device) -> torch.device:
    """The device of a name: `auto` is the GPU if there is one. Raises ValueError for one that is unknown or not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:1 or mps, got {str(name)!r}")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise ValueError(
            f"device {name} was asked for, but torch sees {there} of that kind here; use cpu, or auto for what there is"
        )
    return device
