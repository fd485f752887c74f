"""Takes the fixtures and shapes of the reference's own tests, which lie in a folder on PYTHONPATH as the
package `tests`, and prints how many tests passed and failed."""
from unittest import mock

import mlstm_kernels.torch.chunkwise as chunkwise
import pytest
import torch

# Without Triton mlstm_kernels leaves out its Triton kernels, which the reference's tests of padding import by name.
for name in ("mlstm_chunkwise__limit_chunk", "mlstm_chunkwise__xl_chunk"):
    if not hasattr(chunkwise, name):
        setattr(chunkwise, name, None)

# Without a GPU the reference skips the file that holds its fixtures; those used here take a device.
with mock.patch.object(torch.cuda, "is_available", return_value=True):
    from tests.torch.chunkwise.conftest import mlstm_siging_state_passing_test  # noqa: F401
    from tests.torch.conftest import (  # noqa: F401
        mlstm_parallel_interface_test,
        mlstm_state_passing_test,
        state_passing_qkvif,
    )


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """The template draws all differences, which takes longer than all else, before it asserts that they are small."""
    from mlstm_kernels.utils.test import checks

    for name in [name for name in vars(checks) if name.startswith("plot_")]:
        monkeypatch.setattr(checks, name, lambda *arguments, **named: [])


def pytest_terminal_summary(terminalreporter):
    count = {key: len(terminalreporter.stats.get(key, [])) for key in ("passed", "failed", "error")}
    terminalreporter.write_line(f"{count['passed']} passed, {count['failed'] + count['error']} failed")
