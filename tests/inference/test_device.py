import pytest
import torch

from cellwright.core.errors import DeviceError
from cellwright.inference import device, predictor
from cellwright.inference.device import autocast, choose_device, choose_dtype, devices, is_out_of_memory
from cellwright.inference.predictor import Networks
from cellwright.inference.settings import EngineSettings


def test_the_cpu_is_always_there_and_last():
    assert devices()[-1].name == "cpu"
    title, n = devices()[-1].title, torch.get_num_threads()
    torch.set_num_threads(n + 1)  # as a training changes it
    try:
        assert devices()[-1].title == title
    finally:
        torch.set_num_threads(n)
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_is_the_first_device():
    assert str(choose_device("auto")) == devices()[0].name


@pytest.mark.parametrize("name", ["cuda:7", "tpu", "", "CPU0"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(DeviceError, match=f"cpu; got '{name}'"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_gpus_are_refused_where_there_are_none(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="one of those in this machine: cpu; got"):
        choose_device(name)


def test_gpus_are_found_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Model {index}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [one.name for one in devices()] == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert devices()[1].title == "GPU 1: Model 1"
    assert [str(choose_device(name)) for name in ("auto", "cuda", "cuda:1", "mps")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "mps",
    ]


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_half_precision_only_where_the_cpu_has_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_dtype(torch.device("cpu")) == dtype


def test_number_types_of_other_devices_and_by_name():
    assert choose_dtype(torch.device("cuda")) == torch.float16
    assert choose_dtype(torch.device("mps")) == torch.float32
    assert choose_dtype(torch.device("cpu"), "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("Invalid buffer size: 20.00 GiB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_cache_of_a_gpu_is_freed(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: freed.append("mps"))
    for name in ("cuda", "mps", "cpu"):
        device.free_cache(torch.device(name))
    assert freed == ["cuda", "mps"]


@pytest.mark.parametrize(("free_gb", "batches"), [(0.5, (1, 1)), (6.0, (1, 5)), (80.0, (4, 64))])
def test_a_gpu_takes_as_many_tiles_as_its_free_memory_holds(monkeypatch, oracle_model, free_gb, batches):
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gb * 0.75e9), 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(free_gb * 0.35e9))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(free_gb * 0.10e9))
    monkeypatch.setattr(predictor, "choose_device", lambda _: gpu)
    monkeypatch.setattr(predictor, "_inference_network", lambda model, _: model.network)
    monkeypatch.setattr(predictor, "free_cache", lambda _: None)
    engine = Networks([oracle_model], EngineSettings())
    assert engine.device == gpu
    assert (engine.batch_for((2048, 2048)), engine.batch_for((512, 512))) == batches
    engine.batch_size = 3
    assert engine.batch_for((2048, 2048)) == 3


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_full_precision_asks_for_no_number_type_that_a_device_warns_of(kind):
    """PyTorch 2.5 warns of float32 on Apple Metal though it is not to be used."""
    context = autocast(torch.device(kind), torch.float32)
    assert context.fast_dtype in (torch.float16, torch.bfloat16)
    assert not context._enabled
    half = autocast(torch.device("cpu"), torch.bfloat16)
    assert (half.fast_dtype, half._enabled) == (torch.bfloat16, True)
