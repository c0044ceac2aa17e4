import os
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from cellwright.training.state import first_state


@pytest.mark.skipif(not hasattr(os, "RTLD_DEEPBIND"), reason="only Linux with glibc has the conflict")
def test_triton_is_imported_so_that_it_keeps_to_its_own_llvm(tmp_path, monkeypatch):
    first_state(nn.Linear(1, 1), torch.device("cpu"), 0.0)  # PyTorch looks for the true one here
    (tmp_path / "triton.py").write_text("import sys\nflags = sys.getdlopenflags()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    del sys.modules["triton"]
    before = sys.getdlopenflags()
    first_state(nn.Linear(1, 1), torch.device("cpu"), 0.0)
    assert sys.modules["triton"].flags == before | os.RTLD_DEEPBIND
    assert sys.getdlopenflags() == before
