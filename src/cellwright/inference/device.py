"""Where a network runs: devices by name, their fastest number type, how running out of memory shows."""

import math
from typing import NamedTuple

import torch

from cellwright.core.errors import DeviceError

OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "alloc_failed"),
    "invalid buffer size",  # of Apple Metal, which takes no piece larger than its memory
)


class Device(NamedTuple):
    """A device of this machine: the name to set, and one line for people."""

    name: str
    title: str


def devices() -> tuple[Device, ...]:
    """Return the devices of this machine, fastest first; the CPU is always the last."""
    found = [
        Device(f"cuda:{index}", f"GPU {index}: {torch.cuda.get_device_name(index)}")
        for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append(Device("mps", "GPU: Apple Metal"))
    found.append(Device("cpu", "CPU"))  # without threads: a training changes their number while it runs
    return tuple(found)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``: auto (the fastest), cpu, cuda, cuda:N or mps.

    DeviceError where there is no such device in this machine.
    """
    here = [device.name for device in devices()]
    wanted = {"auto": here[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in here:
        raise DeviceError(
            f"Device must be auto or one of those in this machine: {', '.join(here)}; got {name!r}. "
            "Choose one of these, or install a torch build for your GPU."
        )
    return torch.device(wanted)


def choose_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """Return the number type of the network's convolutions; auto is half precision where that is faster."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu":
        # elsewhere torch imitates it, slower than float32
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # none before 2.10
        if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a network computes in a number type; in float32 nothing is changed."""
    is_half = dtype != torch.float32
    # without its own type where it does nothing, for on Apple Metal PyTorch warns of others all the same
    return torch.autocast(device.type, dtype if is_half else None, enabled=is_half)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python ran out of memory (torch often says so in a plain RuntimeError)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def free_cache(device: torch.device) -> None:
    """Give memory that torch holds but does not use back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_device_memory(device: torch.device) -> float:
    """Return the bytes of a GPU that may still be taken, those included that torch holds but does not use."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(free + unused)
