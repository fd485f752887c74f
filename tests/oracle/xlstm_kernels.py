"""The kernel library as PyTorch functions with the signatures of mlstm_kernels: tensors are handed to
xlstm_kernel_run as they are, by address, shape and strides; gradients come from the kernels' own backward.

The library is the file that the environment variable XLSTM_LIBRARY names.
"""
import ctypes
import os

import torch

MAX_RANK = 5
DTYPES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
BACKWARDS = {"exact": 1, "upstream": 2}


class Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int),
                ("shape", ctypes.c_int64 * MAX_RANK), ("stride", ctypes.c_int64 * MAX_RANK)]

    @classmethod
    def of(cls, tensor):
        pad = [0] * (MAX_RANK - tensor.dim())
        return cls(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim(),
                   (ctypes.c_int64 * MAX_RANK)(*tensor.shape, *pad),
                   (ctypes.c_int64 * MAX_RANK)(*tensor.stride(), *pad))


class Argument(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("array", Array)]


class Options(ctypes.Structure):
    _fields_ = [("backward", ctypes.c_int), ("accumulate", ctypes.c_int), ("threads", ctypes.c_int),
                ("chunk_size", ctypes.c_int64), ("eps", ctypes.c_double), ("normalize", ctypes.c_bool),
                ("stored_states", ctypes.c_bool), ("groups", ctypes.c_int), ("soft_cap", ctypes.c_double),
                ("recurrent_cut", ctypes.c_bool), ("recurrent_gradient_clip", ctypes.c_double),
                ("forward_clip", ctypes.c_double), ("ignore_index", ctypes.c_int64),
                ("stream", ctypes.c_void_p), ("workspace", ctypes.c_void_p), ("workspace_size", ctypes.c_size_t)]


class Kernel(ctypes.Structure):
    """The beginning of struct xlstm_kernel."""
    _fields_ = [("name", ctypes.c_char_p), ("family", ctypes.c_char_p), ("device", ctypes.c_char_p)]


library = ctypes.CDLL(os.environ["XLSTM_LIBRARY"])
library.xlstm_kernel_defaults.restype = Options
library.xlstm_kernel_at.restype = ctypes.POINTER(Kernel)
library.xlstm_last_error.restype = ctypes.c_char_p
library.xlstm_kernel_run.argtypes = [ctypes.c_char_p, ctypes.POINTER(Options), ctypes.POINTER(Argument),
                                     ctypes.c_int]
library.xlstm_kernel_workspace.argtypes = [*library.xlstm_kernel_run.argtypes, ctypes.POINTER(ctypes.c_size_t)]


def names():
    """Of all kernels of this build."""
    found, index = [], 0
    while kernel := library.xlstm_kernel_at(index):
        found.append(kernel.contents.name.decode())
        index += 1
    return found


def prepare(name, tensors, backward=None, **options):
    """A kernel on named tensors, to be called any number of times; None is an argument that is absent. Outputs are
    written in place. On a GPU it runs on what is PyTorch's current stream now, in a workspace of its own."""
    opts = library.xlstm_kernel_defaults()
    opts.backward = BACKWARDS[backward] if backward else 0
    for key, value in options.items():
        setattr(opts, key, value)
    given = [(key, tensor) for key, tensor in tensors.items() if tensor is not None]
    arguments = (Argument * len(given))(*[Argument(key.encode(), Array.of(t)) for key, t in given])
    call = name.encode(), ctypes.byref(opts), arguments, len(given)
    kept = [tensor for _, tensor in given]
    if any(tensor.is_cuda for tensor in kept):
        size = ctypes.c_size_t()
        opts.stream = torch.cuda.current_stream().cuda_stream
        check(library.xlstm_kernel_workspace(*call, ctypes.byref(size)))
        kept.append(torch.empty(size.value, dtype=torch.uint8, device="cuda"))
        opts.workspace, opts.workspace_size = kept[-1].data_ptr(), size.value

    def function():
        check(library.xlstm_kernel_run(*call))

    function.memory = kept  # lives as long as the function
    return function


def check(status):
    if status != 0:
        raise RuntimeError(library.xlstm_last_error().decode())


def run(name, tensors, backward=None, **options):
    """The same, once."""
    prepare(name, tensors, backward, **options)()


class Mlstm(torch.autograd.Function):
    """h and, unless the form is parallel, c, n, and (exponential input gate) m."""

    @staticmethod
    def forward(ctx, q, k, v, i, f, c0, n0, m0, name, backward, options):
        inputs = dict(q=q, k=k, v=v, i=i, f=f, c0=c0, n0=n0, m0=m0)
        h = torch.full_like(v, float("nan"), memory_format=torch.contiguous_format)
        outputs = {"h": h}
        if not name.startswith("parallel"):
            outputs["c"] = q.new_full((*q.shape[:2], q.shape[3], v.shape[3]), float("nan"))
            outputs["n"] = q.new_full((*q.shape[:2], q.shape[3]), float("nan"))
            if "_sig" not in name:
                outputs["m"] = q.new_full((*q.shape[:2], 1), float("nan"))
        run(name, inputs | outputs, **options)
        ctx.save_for_backward(*inputs.values())
        ctx.given = name, backward, options, list(outputs)
        return tuple(outputs.values())

    @staticmethod
    def backward(ctx, *gradients):
        name, backward, options, outputs = ctx.given
        inputs = dict(zip("q k v i f c0 n0 m0".split(), ctx.saved_tensors))
        incoming = {"d" + key: gradient for key, gradient in zip(outputs, gradients)}
        wanted = {"d" + key: torch.full_like(t, float("nan"), memory_format=torch.contiguous_format)
                  for key, t in inputs.items() if t is not None}
        run(name, inputs | incoming | wanted, backward=backward, **options)
        return (*[wanted.get("d" + key) for key in inputs], None, None, None)


def mlstm(name, backward="exact"):
    """A function with the signature of the reference's parallel, chunkwise and sequence kernels."""

    def function(q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None, return_last_states=False,
                 eps=1e-6, chunk_size=64, normalize=True, dtype_state=None, autocast_kernel_dtype=None):
        states = c_initial, n_initial, None if "_sig" in name else m_initial
        options = dict(eps=eps, chunk_size=chunk_size, normalize=normalize)
        h, *last = Mlstm.apply(q, k, v, i, f, *states, name, backward, options)
        return (h, tuple(last)) if return_last_states else h

    return function


def mlstm_step(name):
    """A function with the signature of the reference's step kernels."""

    def function(q, k, v, i, f, c, n, m, eps=1e-6, dtype_state=None):
        q, k, v = (x.unsqueeze(2) for x in (q, k, v))
        h, *last = Mlstm.apply(q, k, v, i, f, c, n, m, name, "exact", dict(eps=eps))
        return h.squeeze(2), tuple(last)

    return function
