/* The families of the kernel library: their arguments, and the list of kernels that the devices of
 * this build make of them. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "ops/kernels.h"
#include "ops/ops.h"

/* ---- Arguments of the groups ---- */

/* Shapes: sizes by name, which agree wherever they occur; NC is the number of chunks. */
#define QK "B,NH,S,DHQK"
#define VALUES "B,NH,S,DHHV"
#define GATES "B,NH,S"
#define C_STATE "B,NH,DHQK,DHHV"
#define N_STATE "B,NH,DHQK"
#define M_STATE "B,NH,1"

static const xlstm_parameter mlstm_parameters[MLSTM_ARGUMENTS] = {
    [MLSTM_Q] = {"q", XLSTM_INPUT, QK},
    [MLSTM_K] = {"k", XLSTM_INPUT, QK},
    [MLSTM_V] = {"v", XLSTM_INPUT, VALUES},
    [MLSTM_I] = {"i", XLSTM_INPUT, GATES},
    [MLSTM_F] = {"f", XLSTM_INPUT, GATES},
    [MLSTM_C0] = {"c0", XLSTM_OPTIONAL_INPUT, C_STATE},
    [MLSTM_N0] = {"n0", XLSTM_OPTIONAL_INPUT, N_STATE},
    [MLSTM_M0] = {"m0", XLSTM_OPTIONAL_INPUT, M_STATE},
    [MLSTM_H] = {"h", XLSTM_OUTPUT, VALUES},
    [MLSTM_C] = {"c", XLSTM_OUTPUT, C_STATE},
    [MLSTM_N] = {"n", XLSTM_OUTPUT, N_STATE},
    [MLSTM_M] = {"m", XLSTM_OUTPUT, M_STATE},
    [MLSTM_ALL_C] = {"all_c", XLSTM_OUTPUT, "B,NH,(NC+1)*DHQK,DHHV"},
    [MLSTM_ALL_N] = {"all_n", XLSTM_OUTPUT, "B,NH,(NC+1)*DHQK"},
    [MLSTM_ALL_M] = {"all_m", XLSTM_OUTPUT, "B,NH,NC+1"},
    [MLSTM_DH] = {"dh", XLSTM_BACKWARD_INPUT, VALUES},
    [MLSTM_DC] = {"dc", XLSTM_BACKWARD_INPUT, C_STATE},
    [MLSTM_DN] = {"dn", XLSTM_BACKWARD_INPUT, N_STATE},
    [MLSTM_DM] = {"dm", XLSTM_BACKWARD_INPUT, M_STATE},
    [MLSTM_DQ] = {"dq", XLSTM_BACKWARD_OUTPUT, QK},
    [MLSTM_DK] = {"dk", XLSTM_BACKWARD_OUTPUT, QK},
    [MLSTM_DV] = {"dv", XLSTM_BACKWARD_OUTPUT, VALUES},
    [MLSTM_DI] = {"di", XLSTM_BACKWARD_OUTPUT, GATES},
    [MLSTM_DF] = {"df", XLSTM_BACKWARD_OUTPUT, GATES},
    [MLSTM_DC0] = {"dc0", XLSTM_BACKWARD_OUTPUT, C_STATE},
    [MLSTM_DN0] = {"dn0", XLSTM_BACKWARD_OUTPUT, N_STATE},
    [MLSTM_DM0] = {"dm0", XLSTM_BACKWARD_OUTPUT, M_STATE},
};

#define SLSTM_STATE "4,B,NH,DH"
#define LSTM_STATE "2,B,NH,DH"

static const xlstm_parameter slstm_parameters[SLSTM_ARGUMENTS] = {
    [SLSTM_X] = {"x", XLSTM_INPUT, "B,S,4,NH,DH"},
    [SLSTM_R] = {"r", XLSTM_INPUT, "NH,DH,4*DH"},
    [SLSTM_B] = {"b", XLSTM_INPUT, "4,NH,DH"},
    [SLSTM_S0] = {"s0", XLSTM_OPTIONAL_INPUT, SLSTM_STATE},
    [SLSTM_Y] = {"y", XLSTM_OUTPUT, "B,S,NH,DH"},
    [SLSTM_S] = {"s", XLSTM_OUTPUT, SLSTM_STATE},
    [SLSTM_ALL_S] = {"all_s", XLSTM_OUTPUT, "4,B,S,NH,DH"},
    [SLSTM_DY] = {"dy", XLSTM_BACKWARD_INPUT, "B,S,NH,DH"},
    [SLSTM_DS] = {"ds", XLSTM_BACKWARD_INPUT, SLSTM_STATE},
    [SLSTM_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "B,S,4,NH,DH"},
    [SLSTM_DR] = {"dr", XLSTM_BACKWARD_OUTPUT, "NH,DH,4*DH"},
    [SLSTM_DB] = {"db", XLSTM_BACKWARD_OUTPUT, "4,NH,DH"},
    [SLSTM_DS0] = {"ds0", XLSTM_BACKWARD_OUTPUT, SLSTM_STATE},
};

static const xlstm_parameter conv1d_parameters[CONV1D_ARGUMENTS] = {
    [CONV1D_X] = {"x", XLSTM_INPUT, "B,S,D"},
    [CONV1D_W] = {"w", XLSTM_INPUT, "D,K"},
    [CONV1D_B] = {"b", XLSTM_OPTIONAL_INPUT, "D"},
    [CONV1D_S0] = {"s0", XLSTM_OPTIONAL_INPUT, "B,K-1,D"},
    [CONV1D_Y] = {"y", XLSTM_OUTPUT, "B,S,D"},
    [CONV1D_S] = {"s", XLSTM_OUTPUT, "B,K-1,D"},
    [CONV1D_DY] = {"dy", XLSTM_BACKWARD_INPUT, "B,S,D"},
    [CONV1D_DS] = {"ds", XLSTM_BACKWARD_INPUT, "B,K-1,D"},
    [CONV1D_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "B,S,D"},
    [CONV1D_DW] = {"dw", XLSTM_BACKWARD_OUTPUT, "D,K"},
    [CONV1D_DB] = {"db", XLSTM_BACKWARD_OUTPUT, "D"},
    [CONV1D_DS0] = {"ds0", XLSTM_BACKWARD_OUTPUT, "B,K-1,D"},
};

static const xlstm_parameter headwise_parameters[AFFINE_ARGUMENTS] = {
    [AFFINE_X] = {"x", XLSTM_INPUT, "N,NH,I"},
    [AFFINE_W] = {"w", XLSTM_INPUT, "NH,O,I"},
    [AFFINE_B] = {"b", XLSTM_OPTIONAL_INPUT, "NH,O"},
    [AFFINE_Y] = {"y", XLSTM_OUTPUT, "N,NH,O"},
    [AFFINE_DY] = {"dy", XLSTM_BACKWARD_INPUT, "N,NH,O"},
    [AFFINE_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "N,NH,I"},
    [AFFINE_DW] = {"dw", XLSTM_BACKWARD_OUTPUT, "NH,O,I"},
    [AFFINE_DB] = {"db", XLSTM_BACKWARD_OUTPUT, "NH,O"},
};

static const xlstm_parameter norm_parameters[AFFINE_ARGUMENTS] = {
    [AFFINE_X] = {"x", XLSTM_INPUT, "N,D"},
    [AFFINE_W] = {"w", XLSTM_OPTIONAL_INPUT, "D"}, /* absent: 1 */
    [AFFINE_B] = {"b", XLSTM_OPTIONAL_INPUT, "D"},
    [AFFINE_Y] = {"y", XLSTM_OUTPUT, "N,D"},
    [AFFINE_DY] = {"dy", XLSTM_BACKWARD_INPUT, "N,D"},
    [AFFINE_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "N,D"},
    [AFFINE_DW] = {"dw", XLSTM_BACKWARD_OUTPUT, "D"},
    [AFFINE_DB] = {"db", XLSTM_BACKWARD_OUTPUT, "D"},
};

static const xlstm_parameter soft_cap_parameters[GATE_ARGUMENTS] = {
    [GATE_X] = {"x", XLSTM_INPUT, "N,D"},
    [GATE_Y] = {"y", XLSTM_OUTPUT, "N,D"},
    [GATE_DY] = {"dy", XLSTM_BACKWARD_INPUT, "N,D"},
    [GATE_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "N,D"},
};

static const xlstm_parameter gate_parameters[GATE_ARGUMENTS] = {
    [GATE_X] = {"x", XLSTM_INPUT, "N,D"},
    [GATE_U] = {"u", XLSTM_INPUT, "N,D"},
    [GATE_Y] = {"y", XLSTM_OUTPUT, "N,D"},
    [GATE_DY] = {"dy", XLSTM_BACKWARD_INPUT, "N,D"},
    [GATE_DX] = {"dx", XLSTM_BACKWARD_OUTPUT, "N,D"},
    [GATE_DU] = {"du", XLSTM_BACKWARD_OUTPUT, "N,D"},
};

static const xlstm_parameter cross_entropy_parameters[CROSS_ENTROPY_ARGUMENTS] = {
    [CROSS_ENTROPY_LOGITS] = {"logits", XLSTM_INPUT, "N,V"},
    [CROSS_ENTROPY_TARGET] = {"target", XLSTM_INPUT, "N"},
    [CROSS_ENTROPY_LOSS] = {"loss", XLSTM_OUTPUT, "N"},
    [CROSS_ENTROPY_DLOSS] = {"dloss", XLSTM_BACKWARD_INPUT, "N"},
    [CROSS_ENTROPY_DLOGITS] = {"dlogits", XLSTM_BACKWARD_OUTPUT, "N,V"},
};

static const struct {
    const xlstm_parameter *parameters;
    int count;
    size_t functions; /* offset in kernel_table */
} groups[GROUP_COUNT] = {
    [GROUP_MLSTM] = {mlstm_parameters, MLSTM_ARGUMENTS, offsetof(kernel_table, mlstm)},
    [GROUP_SLSTM] = {slstm_parameters, SLSTM_ARGUMENTS, offsetof(kernel_table, slstm)},
    [GROUP_CONV1D] = {conv1d_parameters, CONV1D_ARGUMENTS, offsetof(kernel_table, conv1d)},
    [GROUP_HEADWISE_LINEAR] = {headwise_parameters, AFFINE_ARGUMENTS,
                               offsetof(kernel_table, headwise_linear)},
    [GROUP_RMS_NORM] = {norm_parameters, AFFINE_ARGUMENTS, offsetof(kernel_table, rms_norm)},
    [GROUP_LAYER_NORM] = {norm_parameters, AFFINE_ARGUMENTS, offsetof(kernel_table, layer_norm)},
    [GROUP_SOFT_CAP] = {soft_cap_parameters, GATE_ARGUMENTS, offsetof(kernel_table, soft_cap)},
    [GROUP_SWIGLU] = {gate_parameters, GATE_ARGUMENTS, offsetof(kernel_table, swiglu)},
    [GROUP_GELU_GATE] = {gate_parameters, GATE_ARGUMENTS, offsetof(kernel_table, gelu_gate)},
    [GROUP_CROSS_ENTROPY] = {cross_entropy_parameters, CROSS_ENTROPY_ARGUMENTS,
                             offsetof(kernel_table, cross_entropy)},
};

/* ---- Families ---- */

typedef struct family {
    const char *name, *summary;
    enum kernel_group group;
    enum kernel_form form;
    bool sigmoid, lstm;
} family;

static const family families[] = {
    {"parallel", "mLSTM, all tokens at once, without states", GROUP_MLSTM, KERNEL_PARALLEL, false,
     false},
    {"parallel_stable",
     "mLSTM, all tokens at once, without states; forget matrix without differences", GROUP_MLSTM,
     KERNEL_PARALLEL_STABLE, false, false},
    {"chunkwise", "mLSTM, chunks of any length", GROUP_MLSTM, KERNEL_CHUNKWISE, false, false},
    {"sequence", "mLSTM, token by token", GROUP_MLSTM, KERNEL_SEQUENCE, false, false},
    {"step", "mLSTM, one token", GROUP_MLSTM, KERNEL_STEP, false, false},
    {"parallel_sig", "parallel with sigmoid input gate", GROUP_MLSTM, KERNEL_PARALLEL, true, false},
    {"parallel_stable_sig", "parallel_stable with sigmoid input gate", GROUP_MLSTM,
     KERNEL_PARALLEL_STABLE, true, false},
    {"chunkwise_sig", "chunkwise with sigmoid input gate", GROUP_MLSTM, KERNEL_CHUNKWISE, true,
     false},
    {"sequence_sig", "sequence with sigmoid input gate", GROUP_MLSTM, KERNEL_SEQUENCE, true, false},
    {"step_sig", "step with sigmoid input gate", GROUP_MLSTM, KERNEL_STEP, true, false},
    {"slstm_sequence", "sLSTM, token by token", GROUP_SLSTM, KERNEL_SEQUENCE, false, false},
    {"slstm_step", "sLSTM, one token", GROUP_SLSTM, KERNEL_STEP, false, false},
    {"lstm_sequence", "LSTM, token by token", GROUP_SLSTM, KERNEL_SEQUENCE, false, true},
    {"lstm_step", "LSTM, one token", GROUP_SLSTM, KERNEL_STEP, false, true},
    {"conv1d", "causal convolution of each channel, with carried state", GROUP_CONV1D,
     KERNEL_SEQUENCE, false, false},
    {"headwise_linear", "linear map of each head (block-diagonal)", GROUP_HEADWISE_LINEAR,
     KERNEL_SEQUENCE, false, false},
    {"rms_norm", "RMSNorm of rows, or of equal groups of a row", GROUP_RMS_NORM, KERNEL_SEQUENCE,
     false, false},
    {"layer_norm", "LayerNorm of rows, or of equal groups of a row (head norm)", GROUP_LAYER_NORM,
     KERNEL_SEQUENCE, false, false},
    {"soft_cap", "cap * tanh(x / cap)", GROUP_SOFT_CAP, KERNEL_SEQUENCE, false, false},
    {"swiglu", "silu(x) * u", GROUP_SWIGLU, KERNEL_SEQUENCE, false, false},
    {"gelu_gate", "gelu(x) * u, the form with erf", GROUP_GELU_GATE, KERNEL_SEQUENCE, false, false},
    {"cross_entropy", "negative log-probability of the target", GROUP_CROSS_ENTROPY,
     KERNEL_SEQUENCE, false, false},
};
enum { FAMILY_COUNT = sizeof families / sizeof *families, MOST_DEVICES = 4 };

/* What a family has of the arguments of its group. */
static bool takes(const family *f, int argument) {
    if (f->group == GROUP_MLSTM) {
        bool parallel = f->form == KERNEL_PARALLEL || f->form == KERNEL_PARALLEL_STABLE;
        bool is_m = argument == MLSTM_M0 || argument == MLSTM_M || argument == MLSTM_ALL_M ||
                    argument == MLSTM_DM || argument == MLSTM_DM0;
        bool is_all = argument >= MLSTM_ALL_C && argument <= MLSTM_ALL_M;
        bool is_state = (argument >= MLSTM_C0 && argument <= MLSTM_M0) ||
                        (argument >= MLSTM_C && argument <= MLSTM_M) ||
                        (argument >= MLSTM_DC && argument <= MLSTM_DM) || argument >= MLSTM_DC0;
        return !(is_m && f->sigmoid) && !(is_all && f->form != KERNEL_CHUNKWISE) &&
               !(is_state && parallel);
    }
    return groups[f->group].parameters[argument].name != NULL;
}

/* ---- The list ---- */

static struct {
    char name[40];
    xlstm_parameter parameters[KERNEL_MOST_ARGUMENTS];
    kernel_entry entry;
} list[FAMILY_COUNT * MOST_DEVICES];
static int list_count;

/* The LSTM has two states, and one token needs no S of its own. */
static xlstm_parameter parameter_of(const family *f, int argument) {
    xlstm_parameter p = groups[f->group].parameters[argument];
    if (f->lstm && strcmp(p.shape, SLSTM_STATE) == 0)
        p.shape = LSTM_STATE;
    else if (f->lstm && argument == SLSTM_ALL_S)
        p.shape = "2,B,S,NH,DH";
    return p;
}

static void add(const family *f, const ops_device *device) {
    kernel_functions functions = {0};
    if (device->kernels)
        memcpy(&functions, (const char *)device->kernels + groups[f->group].functions,
               sizeof functions);
    if (!functions.run)
        return;
    snprintf(list[list_count].name, sizeof list->name, "%s--%s", f->name, device->name);
    kernel_entry *e = &list[list_count].entry;
    *e = (kernel_entry){.group = f->group,
                        .form = f->form,
                        .sigmoid = f->sigmoid,
                        .lstm = f->lstm,
                        .functions = functions,
                        .table = device->kernels};
    xlstm_parameter *parameters = list[list_count].parameters;
    int count = 0;
    for (int i = 0; i < groups[f->group].count; i++) {
        if (!takes(f, i))
            continue;
        e->index[count] = i;
        parameters[count++] = parameter_of(f, i);
    }
    e->kernel = (xlstm_kernel){
        .name = list[list_count].name,
        .family = f->name,
        .device = device->name,
        .summary = f->summary,
        .parameters = parameters,
        .parameter_count = count,
        .upstream = f->group == GROUP_MLSTM,
        .compensated = f->group == GROUP_MLSTM && device->kernels->mlstm_compensated,
        .device_memory = device->kernels->memory != NULL,
    };
    list_count++;
}

static void make_list(void) {
    for (int i = 0; i < FAMILY_COUNT; i++)
        for (int d = 0; ops_device_at(d) && d < MOST_DEVICES; d++)
            add(&families[i], ops_device_at(d));
}

static void need_list(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_list);
}

const xlstm_kernel *xlstm_kernel_at(int index) {
    need_list();
    return index >= 0 && index < list_count ? &list[index].entry.kernel : NULL;
}

const kernel_entry *kernel_entry_of(const xlstm_kernel *kernel) {
    return (const kernel_entry *)(const void *)((const char *)kernel -
                                                offsetof(kernel_entry, kernel));
}

/* The length of what two names have in common at the beginning. */
static size_t common(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && a[n] == b[n])
        n++;
    return n;
}

bool kernel_needs_cuda(const char *name) {
    const char *device = strstr(name, "--");
    if (!device || strcmp(device, "--cuda") != 0)
        return false;
    const ops_device *built;
    for (int d = 0; (built = ops_device_at(d)); d++)
        if (strcmp(built->name, "cuda") == 0)
            return false;
    return true;
}

const xlstm_kernel *xlstm_kernel_find(const char *name) {
    need_list();
    int nearest = 0;
    name = name ? name : "";
    for (int i = 0; i < list_count; i++) {
        if (strcmp(list[i].name, name) == 0)
            return &list[i].entry.kernel;
        if (common(name, list[i].name) > common(name, list[nearest].name))
            nearest = i;
    }
    if (kernel_needs_cuda(name)) {
        error_set(XLSTM_UNSUPPORTED, "%.60s: built without CUDA: run make cuda", name);
        return NULL;
    }
    error_set(XLSTM_INVALID_ARGUMENT,
              "no kernel \"%.60s\"; the nearest name is %s, and `xlstm kernels` lists all", name,
              list_count ? list[nearest].name : "none");
    return NULL;
}

xlstm_array xlstm_array_make(void *data, xlstm_dtype type, int rank, const int64_t *shape) {
    xlstm_array a = {.data = data, .dtype = type, .rank = rank};
    int64_t stride = 1;
    for (int i = (rank < XLSTM_MAX_RANK ? rank : XLSTM_MAX_RANK) - 1; i >= 0; i--) {
        a.shape[i] = shape[i];
        a.stride[i] = stride;
        if (__builtin_mul_overflow(stride, shape[i], &stride))
            stride = INT64_MAX; /* what uses it is refused */
    }
    return a;
}

xlstm_kernel_options xlstm_kernel_defaults(void) {
    return (xlstm_kernel_options){
        .eps = 1e-6, .normalize = true, .groups = 1, .soft_cap = 15, .ignore_index = -1};
}
