"""The reference's own tests with our kernels as targets: its template of forward and backward, passing of
states, arbitrary lengths, padding. Tolerances are those of the reference's native kernels."""
from functools import partial

import pytest
import torch
import xlstm_kernels
from mlstm_kernels.torch.parallel.native_siging import (
    mlstm_siging_parallel__native_autograd,
    mlstm_siging_parallel__native_custbw,
)
from mlstm_kernels.torch.parallel.native_stablef import (
    mlstm_parallel__native_stablef_autograd,
    mlstm_parallel__native_stablef_custbw,
)
from mlstm_kernels.torch.recurrent import mlstm_recurrent_step__native
from mlstm_kernels.torch.recurrent.native_sequence import mlstm_recurrent_sequence__native_fw
from tests.conftest import combinations_long_list, combinations_other_list
from tests.torch.template_test_arbitrary_sequence_length import (
    template_test_wrap_chunkwise__arbitrary_sequence_length as arbitrary_length,
)
from tests.torch.template_test_arbitrary_sequence_length import (
    template_test_wrap_chunkwise__arbitrary_sequence_length_single_step as single_step,
)
from tests.torch.test_pad_zeros import template_test_pad_zeros

SHAPES = combinations_long_list + combinations_other_list
FAMILIES = ("parallel", "parallel_stable", "chunkwise", "sequence")
CPU = torch.device("cpu")

kernels = xlstm_kernels.names()
devices = sorted({name.split("--")[1] for name in kernels if name.startswith("chunkwise--")})
exponential = [name for name in kernels if name.split("--")[0] in FAMILIES]
sigmoid = [name for name in kernels if name.split("--")[0] in [family + "_sig" for family in FAMILIES]]
stateful = [name for name in exponential if not name.startswith("parallel")]
stateful_sigmoid = [name for name in sigmoid if not name.startswith("parallel")]


def interface(template, target, baseline, name, shape, folder):
    S, B, NH, DHQK, DHHV = shape
    template(
        baseline_fn=baseline, target_fn=target, baseline_name="native", target_name=name,
        S=S, B=B, NH=NH, DHQK=DHQK, DHHV=DHHV, dtype=torch.float32, device=CPU,
        atol_fw=1e-4, rtol_fw=1e-3, atol_fwbw=1e-3, rtol_fwbw=1e-2, vmax=1e-4,
        max_num_batchhead_plots=0, save_dir=str(folder), add_fp64_baseline=False)


@pytest.mark.parametrize("backward", ["upstream", "exact"])
@pytest.mark.parametrize("name", exponential)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_interface(mlstm_parallel_interface_test, name, shape, backward, tmp_path):
    baseline = {"upstream": mlstm_parallel__native_stablef_custbw,
                "exact": mlstm_parallel__native_stablef_autograd}[backward]
    target = xlstm_kernels.mlstm(name, backward)
    interface(mlstm_parallel_interface_test, target, baseline, name, shape, tmp_path)


@pytest.mark.parametrize("backward", ["upstream", "exact"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", sigmoid)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_interface_sigmoid(mlstm_parallel_interface_test, name, shape, normalize, backward, tmp_path):
    baseline = {"upstream": mlstm_siging_parallel__native_custbw,
                "exact": mlstm_siging_parallel__native_autograd}[backward]
    target = partial(xlstm_kernels.mlstm(name, backward), normalize=normalize)
    interface(mlstm_parallel_interface_test, target,
              partial(baseline, stable_fgate=True, normalize=normalize), name, shape, tmp_path)


@pytest.mark.parametrize("name", stateful)
def test_state_passing(mlstm_state_passing_test, state_passing_qkvif, name):
    q, k, v, i, f = state_passing_qkvif
    tolerance = 1e-5 if name.startswith("chunkwise") else 1e-6
    mlstm_state_passing_test(
        kernel_fn=xlstm_kernels.mlstm(name), q=q, k=k, v=v, igate_preact=i, fgate_preact=f,
        num_chunks=q.shape[2] // 64, rtol=tolerance, atol=tolerance, device="cpu")


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", stateful_sigmoid)
def test_state_passing_sigmoid(mlstm_siging_state_passing_test, state_passing_qkvif, name, normalize):
    q, k, v, i, f = state_passing_qkvif
    mlstm_siging_state_passing_test(
        kernel_fn=xlstm_kernels.mlstm(name), q=q, k=k, v=v, igate_preact=i, fgate_preact=f,
        num_chunks=q.shape[2] // 64, normalize=normalize, rtol=1e-5, atol=1e-5, device="cpu")


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("length, chunk_size", [(65, 32), (93, 64), (7, 16), (500, 64)])
@pytest.mark.parametrize("device", devices)
def test_arbitrary_length(device, length, chunk_size, wrapped, monkeypatch):
    """With the reference's wrapper, which cuts a sequence for kernels that take whole chunks only, and
    without it."""
    chunkwise = xlstm_kernels.mlstm("chunkwise--" + device)
    if not wrapped:
        def direct(mlstm_chunkwise_kernel, mlstm_sequence_kernel, mlstm_step_kernel, dtype_state, **arguments):
            return mlstm_chunkwise_kernel(**arguments)
        monkeypatch.setitem(arbitrary_length.__globals__, "wrap_chunkwise__arbitrary_sequence_length", direct)
    arbitrary_length(
        B=1, NH=1, S=length, DHQK=16, DHHV=32, chunk_size=chunk_size,
        parallel_baseline=mlstm_parallel__native_stablef_autograd,
        sequence_baseline=mlstm_recurrent_sequence__native_fw, chunkwise_target=chunkwise,
        sequence_target=xlstm_kernels.mlstm("sequence--" + device),
        step_target=xlstm_kernels.mlstm_step("step--" + device),
        device="cpu", dtype_inputs="float32", atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("device", devices)
def test_single_step(device):
    single_step(
        B=1, NH=1, DHQK=16, DHHV=32, step_baseline=mlstm_recurrent_step__native,
        chunkwise_target=xlstm_kernels.mlstm("chunkwise--" + device),
        sequence_target=xlstm_kernels.mlstm("sequence--" + device),
        step_target=xlstm_kernels.mlstm_step("step--" + device),
        device="cpu", dtype="float32", atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("length, chunk_size", [(128, 32), (65, 64), (1, 16), (400, 128)])
@pytest.mark.parametrize("device", devices)
def test_pad_zeros(device, length, chunk_size):
    template_test_pad_zeros(
        B=1, NH=1, S=length, DHQK=16, DHHV=32, chunk_size=chunk_size,
        chunkwise_kernel=xlstm_kernels.mlstm("chunkwise--" + device),
        parallel_baseline=mlstm_parallel__native_stablef_autograd,
        device="cpu", dtype="float32", atol=1e-5, rtol=1e-5, eps=1e-6)
