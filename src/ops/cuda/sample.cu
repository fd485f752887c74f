/* Logits to ids, by the rules of struct ops_sample. Rows without sampling or penalty are a maximum, which a few blocks
 * find together; any other row is a block's.
 *
 * There nothing is sorted. A rule keeps the first ids in falling order up to where a count, or a sum of weights,
 * reaches what is needed. That place is found by digits: the sum for each digit, then which of them holds the place,
 * then only among the ids that have it. The first digit is the distance from the highest logit; the others are bits of
 * (rank, id), from the leading ones downwards, without those in which all that are left agree. Once few are left, they
 * are gathered in shared memory. Weights are doubles, as the rules have them; their sums are integers, which depend on
 * no order, so that atomics may make them. */
#include "ops/cuda/sample_greedy.h"

enum {
    THREADS = 1024,
    WARPS = THREADS / 32,
    DIGIT_BITS = 8,
    DIGITS = 1 << DIGIT_BITS,
    GATHERED = 2048,  /* ids that are taken into shared memory, once so few are left */
    MOST_BITS = 65536 /* ids whose bits are there */
};

/* As every thread sees it. */
struct sampled_row {
    const float *logits;
    unsigned *listed; /* NULL: no penalty */
    int limit;
    double penalty, temperature, highest;
    double unit;  /* what a weight of 1 counts in sums */
    double scale; /* of the distances that are the first digit */
    int gathered; /* candidates in shared memory; -1: all ids are */
};

/* Ids up to `rank` and, of that rank, up to `id`, whose weight is `least` at least; `count`, or less. */
struct kept_ids {
    wide rank;
    unsigned id;
    double least;
    unsigned count;
};

/* What the threads of a block share. */
struct block_memory {
    wide ranks[GATHERED];
    unsigned ids[GATHERED], gathered, listed[MOST_BITS / 32];
    unsigned count[DIGITS], low[DIGITS], high[DIGITS]; /* ids of a digit, and words of the sum */
    unsigned all[3], any[3]; /* bits that all, and that some have: rank, id */
    wide best[WARPS], needed;
    unsigned best_ids[WARPS];
    float totals[WARPS];
    unsigned digit, in_digit, passed; /* the digit chosen; ids that have it; ids before the place */
};

/* Integers that rise as logits fall; of no logit: the greatest. */
static __device__ __forceinline__ wide rank_of(const sampled_row &row, float logit, int id) {
    if ((__float_as_uint(logit) & 0x7f800000u) == 0x7f800000u)
        return NOTHING;
    double z = (double)logit;
    if (row.listed && (row.listed[id >> 5] >> (id & 31) & 1u))
        z = z > 0.0 ? z / row.penalty : z * row.penalty;
    wide bits = (wide)__double_as_longlong(z + 0.0); /* +0 for -0 */
    return bits >> 63 ? bits : ~(bits | 1ull << 63);
}
/* Calls `visit(logit, id)` for all ids. Logits are fetched some at a time, before what is done with them. */
template <class F>
static __device__ __forceinline__ void each_logit(const sampled_row &row, F visit) {
    enum { AHEAD = 8 };
    for (int first = (int)threadIdx.x; first < row.limit; first += AHEAD * THREADS) {
        float logit[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            logit[k] =
                first + k * THREADS < row.limit ? row.logits[first + k * THREADS] : -INFINITY;
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k * THREADS < row.limit)
                visit(logit[k], first + k * THREADS);
    }
}
static __device__ __forceinline__ double logit_of(wide rank) {
    return __longlong_as_double((long long)(rank >> 63 ? rank : ~rank & ~(1ull << 63)));
}

static __device__ __forceinline__ bool is_kept(const kept_ids &kept, wide rank, unsigned id) {
    return rank < kept.rank || (rank == kept.rank && id <= kept.id);
}

/* exp((logit - highest) / temperature), rounded to an integer; 0 below `least`. */
static __device__ __forceinline__ wide weight_of(const sampled_row &row, const kept_ids &kept,
                                                 wide rank) {
    double weight = exp((logit_of(rank) - row.highest) / row.temperature);
    return weight < kept.least ? 0 : __double2ull_rn(weight * row.unit);
}

/* Sets the bits of the listed ids. */
static __device__ __forceinline__ void list_penalised(const sampled_row &row, const int32_t *ids,
                                                      int count) {
    for (int i = (int)threadIdx.x; i <= (row.limit - 1) >> 5; i += THREADS)
        row.listed[i] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < count; i += THREADS)
        if (ids[i] >= 0 && ids[i] < row.limit)
            atomicOr(row.listed + (ids[i] >> 5), 1u << (ids[i] & 31));
    __syncthreads();
}

/* The lowest of (rank, id) over the warp. */
static __device__ __forceinline__ void first_of_lanes(wide &rank, unsigned &id) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        wide other = __shfl_xor_sync(ALL_LANES, rank, step);
        unsigned other_id = __shfl_xor_sync(ALL_LANES, id, step);
        bool before = other < rank || (other == rank && other_id < id);
        rank = before ? other : rank;
        id = before ? other_id : id;
    }
}

/* The first id in falling order, and its rank; NOTHING where there is no finite logit. Tells of NaN and +inf too, and
 * of about what distance from the highest logit the others have. */
static __device__ __forceinline__ void find_first(sampled_row &row, block_memory &m, wide &rank,
                                                  unsigned &id, bool &broken) {
    int lane = (int)threadIdx.x % (int)WARP, warp = (int)threadIdx.x / (int)WARP;
    bool wrong = false;
    float total = 0.0f;
    rank = NOTHING;
    id = ~0u;
    each_logit(row, [&](float logit, int i) {
        uint32_t bits = __float_as_uint(logit);
        bool finite = (bits & 0x7f800000u) != 0x7f800000u;
        wrong = wrong || (!finite && bits != 0xff800000u);
        total += finite ? logit : 0.0f;
        wide other = rank_of(row, logit, i);
        id = other < rank ? (unsigned)i : id;
        rank = other < rank ? other : rank;
    });
    first_of_lanes(rank, id);
    total = warp_sum(total);
    if (lane == 0) {
        m.best[warp] = rank;
        m.best_ids[warp] = id;
        m.totals[warp] = total;
    }
    broken = __syncthreads_or(wrong);
    rank = m.best[lane];
    id = m.best_ids[lane];
    first_of_lanes(rank, id);
    row.highest = logit_of(rank);
    double range = 2.0 * (row.highest - (double)(warp_sum(m.totals[lane]) / (float)row.limit));
    row.scale = range > 0.0 && range < 1e300 ? DIGITS / range : 0.0;
}

/* ---- The place where a sum reaches what is needed ---- */

enum sum_needed { NEED_COUNT, NEED_SHARE, NEED_MORE_THAN_SHARE };

/* Ids with this distance from the highest logit (-1: any), and these leading bits. */
struct rank_span {
    int distance;
    wide rank_mask, rank;
    unsigned id_mask, id;
};

/* Rises as logits fall. */
static __device__ __forceinline__ int distance_of(const sampled_row &row, wide rank) {
    double distance = (row.highest - logit_of(rank)) * row.scale;
    return distance < DIGITS - 1 ? (int)distance : DIGITS - 1;
}

static __device__ __forceinline__ bool is_in(const sampled_row &row, const rank_span &s, wide rank,
                                             unsigned id) {
    return (rank & s.rank_mask) == s.rank && (id & s.id_mask) == s.id &&
           (s.distance < 0 || distance_of(row, rank) == s.distance);
}

/* Calls `visit(rank, id)` for the candidates that are kept and in the span. */
template <class F>
static __device__ __forceinline__ void each_candidate(const sampled_row &row, const block_memory &m,
                                                      const kept_ids &kept, const rank_span &s,
                                                      F visit) {
    if (row.gathered < 0)
        each_logit(row, [&](float logit, int i) {
            wide rank = rank_of(row, logit, i);
            if (is_kept(kept, rank, (unsigned)i) && is_in(row, s, rank, (unsigned)i))
                visit(rank, (unsigned)i);
        });
    for (int i = (int)threadIdx.x; i < row.gathered; i += THREADS)
        if (is_kept(kept, m.ranks[i], m.ids[i]) && is_in(row, s, m.ranks[i], m.ids[i]))
            visit(m.ranks[i], m.ids[i]);
}

static __device__ __forceinline__ void clear_shared(block_memory &m) {
    for (int i = (int)threadIdx.x; i < DIGITS; i += THREADS)
        m.count[i] = m.low[i] = m.high[i] = 0;
    if (threadIdx.x < 3) {
        m.all[threadIdx.x] = ~0u;
        m.any[threadIdx.x] = 0;
    }
    if (threadIdx.x == 0)
        m.gathered = 0;
}

static __device__ __forceinline__ unsigned lanes_and(unsigned x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x &= __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* In which bits the kept ids of a span agree. */
static __device__ __forceinline__ void compare_bits(const sampled_row &row, block_memory &m,
                                                    const kept_ids &kept, const rank_span &s) {
    wide all = ~0ull, none = ~0ull; /* bits that all, and that none have */
    unsigned id_all = ~0u, id_none = ~0u;
    each_candidate(row, m, kept, s, [&](wide rank, unsigned id) {
        all &= rank;
        none &= ~rank;
        id_all &= id;
        id_none &= ~id;
    });
    const unsigned words[6] = {
        lanes_and((unsigned)(all >> 32)),  lanes_and((unsigned)all),  lanes_and(id_all),
        lanes_and((unsigned)(none >> 32)), lanes_and((unsigned)none), lanes_and(id_none)};
    if (threadIdx.x % WARP != 0)
        return;
    for (int i = 0; i < 3; i++) {
        atomicAnd(m.all + i, words[i]);
        atomicOr(m.any + i, ~words[3 + i]);
    }
}

/* What the next digit of an id is. */
struct digit_place {
    bool by_distance, by_id;
    int shift;
};

/* Adds up the kept ids of a span by their digits. */
static __device__ __forceinline__ void add_up(const sampled_row &row, block_memory &m,
                                              const kept_ids &kept, const rank_span &s,
                                              const digit_place &place, bool weights) {
    each_candidate(row, m, kept, s, [&](wide rank, unsigned id) {
        wide bits = (place.by_id ? (wide)id : rank) >> place.shift;
        unsigned digit =
            place.by_distance ? (unsigned)distance_of(row, rank) : (unsigned)bits & (DIGITS - 1);
        wide weight = weights ? weight_of(row, kept, rank) : 1;
        unsigned low = (unsigned)weight, before = atomicAdd(m.low + digit, low);
        unsigned high = (unsigned)(weight >> 32) + (before + low < low ? 1u : 0u);
        atomicAdd(m.count + digit, 1u);
        if (high)
            atomicAdd(m.high + digit, high);
    });
}

/* The smallest sum that is at least, or more than, `share` of the total. */
static __device__ __forceinline__ wide share_of(wide total, double share, bool more) {
    wide fraction = __double2ull_rz(share * 0x1p64);  /* of 2^64; exact for what is above 2^-12 */
    fraction = fraction == 0 && !more ? 1 : fraction; /* something is kept */
    wide floor = __umul64hi(total, fraction);
    return more || total * fraction != 0 ? floor + 1 : floor;
}

/* What is kept: a count, which may be more than there are, or a share. */
struct sum_wanted {
    enum sum_needed kind;
    int count;
    double share;
};

/* By one warp: which digit the place has, and what is needed within it. */
static __device__ __forceinline__ void choose_digit(block_memory &m, const sum_wanted &wanted,
                                                    bool first) {
    enum { OWN = DIGITS / 32 };
    int lane = (int)threadIdx.x;
    wide own = 0;
    unsigned own_count = 0;
    for (int d = lane * OWN; d < (lane + 1) * OWN; d++) {
        own += (wide)m.high[d] << 32 | m.low[d];
        own_count += m.count[d];
    }
    wide sum = own; /* of this lane's digits and all before */
    unsigned count = own_count;
    for (int step = 1; step < (int)WARP; step *= 2) {
        wide other = __shfl_up_sync(ALL_LANES, sum, step);
        unsigned other_count = __shfl_up_sync(ALL_LANES, count, step);
        sum += lane >= step ? other : 0;
        count += lane >= step ? other_count : 0;
    }
    wide total = __shfl_sync(ALL_LANES, sum, WARP - 1), value = m.needed;
    if (first && wanted.kind == NEED_COUNT)
        value = (wide)wanted.count < total ? (wide)wanted.count : total;
    else if (first)
        value = share_of(total, wanted.share, wanted.kind == NEED_MORE_THAN_SHARE);
    __syncwarp(); /* all have read m.needed */
    sum -= own;
    count -= own_count;
    if (value <= sum || value > sum + own)
        return;
    int d = lane * OWN;
    for (;; d++) {
        own = (wide)m.high[d] << 32 | m.low[d];
        if (value <= sum + own)
            break;
        sum += own;
        count += m.count[d];
    }
    m.digit = (unsigned)d;
    m.in_digit = m.count[d];
    m.passed += count;
    m.needed = value - sum;
}

/* Takes the kept ids of a span, which are no more than GATHERED, into shared memory. */
static __device__ __forceinline__ void gather(sampled_row &row, block_memory &m,
                                              const kept_ids &kept, const rank_span &s) {
    __syncthreads();
    if (threadIdx.x == 0)
        m.gathered = 0;
    __syncthreads();
    each_candidate(row, m, kept, s, [&](wide rank, unsigned id) {
        unsigned i = atomicAdd(&m.gathered, 1u);
        m.ranks[i] = rank;
        m.ids[i] = id;
    });
    __syncthreads();
    row.gathered = (int)m.gathered;
}

/* The bits of the next digit; false where one id is left, which `kept` then ends with. */
static __device__ __forceinline__ bool find_bits(const sampled_row &row, block_memory &m,
                                                 const rank_span &s, kept_ids &kept,
                                                 digit_place &place, wide &all, unsigned &id_all) {
    compare_bits(row, m, kept, s);
    __syncthreads();
    all = (wide)m.all[0] << 32 | m.all[1];
    id_all = m.all[2];
    wide differ = all ^ ((wide)m.any[0] << 32 | m.any[1]);
    unsigned id_differ = id_all ^ m.any[2];
    if (differ == 0 && id_differ == 0) {
        kept.rank = all;
        kept.id = id_all;
        return false;
    }
    place.by_id = differ == 0;
    int top = 64 - __clzll((long long)(place.by_id ? (wide)id_differ : differ));
    place.shift = top > DIGIT_BITS ? top - DIGIT_BITS : 0;
    return true;
}

/* Narrows `kept` to the ids up to the first where the sum reaches what is needed. All threads come here. */
static __device__ void narrow(sampled_row &row, block_memory &m, const sum_wanted &wanted,
                              kept_ids &kept) {
    const rank_span everything = {-1, 0, 0, 0, 0};
    rank_span s = everything;
    if (row.gathered < 0 && kept.count <= GATHERED)
        gather(row, m, kept, everything);
    bool all_ids = row.gathered < 0;
    for (bool first = true;; first = false) {
        digit_place place = {first && all_ids, false, 0};
        wide all = 0;
        unsigned id_all = 0;
        __syncthreads();
        clear_shared(m);
        if (first && threadIdx.x == 0)
            m.passed = 0;
        __syncthreads();
        if (!place.by_distance && !find_bits(row, m, s, kept, place, all, id_all))
            break;
        add_up(row, m, kept, s, place, wanted.kind != NEED_COUNT);
        __syncthreads();
        if (threadIdx.x < WARP)
            choose_digit(m, wanted, first);
        __syncthreads();
        wide mask = ~0ull << place.shift, digit_mask = (wide)(DIGITS - 1) << place.shift;
        wide digit = (wide)m.digit << place.shift;
        if (place.by_distance) {
            s.distance = (int)m.digit;
        } else {
            s.rank_mask = place.by_id ? ~0ull : mask;
            s.rank = place.by_id ? all : (all & mask & ~digit_mask) | digit;
            s.id_mask = place.by_id ? (unsigned)mask : 0u;
            s.id = place.by_id ? (id_all & (unsigned)(mask & ~digit_mask)) | (unsigned)digit : 0u;
        }
        if (row.gathered < 0 && m.in_digit <= GATHERED) {
            gather(row, m, kept, s);
            s = everything;
        }
    }
    kept.count = m.passed + 1;
    row.gathered =
        all_ids ? -1 : row.gathered; /* what was gathered on the way is not all that is kept */
}

static __global__ void __launch_bounds__(THREADS)
    sample_rows(const __grid_constant__ struct sample_arguments a) {
    __shared__ block_memory m;
    int index = (int)blockIdx.x;
    const struct ops_sample_row &rule = a.row[index];
    bool penalising = rule.penalty != 0.0f && rule.penalty != 1.0f && rule.penalised_count > 0;
    sampled_row row;
    row.logits = a.logits + index * a.stride;
    row.listed = !penalising               ? NULL
                 : rule.limit <= MOST_BITS ? m.listed
                                           : a.listed + index * a.words;
    row.limit = rule.limit;
    row.penalty = (double)rule.penalty;
    row.temperature = (double)rule.temperature;
    row.unit = ldexp(1.0, 31 + __clz(row.limit)); /* sums of all weights stay below 2^63 */
    row.gathered = -1;
    cuda_release();
    cuda_wait();
    if (penalising)
        list_penalised(row, a.penalised + rule.penalised_first, rule.penalised_count);
    wide rank;
    unsigned id;
    bool broken;
    find_first(row, m, rank, id, broken);
    if (broken || rank == NOTHING) {
        if (threadIdx.x == 0)
            report_row(a, index, broken ? CUDA_FAULT_SAMPLE : CUDA_FAULT_EMPTY);
        return;
    }
    if (rule.temperature > 0.0f && rule.min_p <= 1.0f) { /* above 1 only the first id is left */
        kept_ids kept = {NOTHING - 1, ~0u, 0.0, ~0u};
        if (rule.top_k > 0 && rule.top_k < row.limit)
            narrow(row, m, {NEED_COUNT, rule.top_k, 0.0}, kept);
        if (rule.top_p > 0.0f && rule.top_p < 1.0f)
            narrow(row, m, {NEED_SHARE, 0, (double)rule.top_p}, kept);
        kept.least = (double)rule.min_p;
        narrow(row, m, {NEED_MORE_THAN_SHARE, 0, rule.uniform}, kept);
        id = kept.id;
    }
    if (threadIdx.x == 0)
        put_id(a, index, (int32_t)id, cuda_anything_wrong(a.faults));
}

/* ---- The op ---- */

static int64_t words_of(int64_t vocab) {
    return (vocab + 31) / 32;
}

static int64_t rows_of(const ops_stream_options *o) {
    return o->limits.sequences < SAMPLE_ROWS ? o->limits.sequences : (int64_t)SAMPLE_ROWS;
}

/* The keys, the counters, the bits of a row each. */
extern "C" void cuda_place_sample(cuda_carver *c, const ops_stream_options *o, cuda_scratch *s) {
    const int64_t shape[] = {rows_of(o), 2 * GREEDY_BLOCKS + 1 + words_of(o->limits.vocab)};
    s->sample = cuda_carve(c, DTYPE_I32, 2, shape);
}

static bool is_plain(const struct ops_sample_row *row) {
    bool penalising = row->penalty != 0 && row->penalty != 1 && row->penalised_count > 0;
    return !penalising && (row->temperature <= 0 || row->min_p > 1);
}

/* Rows [first, first + count). */
static void sample_some(cuda_stream *s, const struct ops_sample *op, struct cuda_told told,
                        int64_t first, int64_t count) {
    struct sample_arguments a = {};
    bool plain = true;
    int64_t longest = 0, most = rows_of(&s->base.options);
    for (int64_t i = 0; i < count; i++) {
        a.row[i] = op->rows[first + i];
        plain = plain && is_plain(&a.row[i]);
        longest = a.row[i].limit > longest ? a.row[i].limit : longest;
    }
    a.stride = op->logits.stride[0];
    a.logits = (const float *)cuda_at(&op->logits) + first * a.stride;
    a.penalised = (const int32_t *)cuda_at(&op->penalised);
    a.out = (int32_t *)cuda_at(&op->out) + first;
    a.best = (wide *)cuda_at(&s->scratch.sample);
    a.ended = (unsigned *)(a.best + most * GREEDY_BLOCKS);
    a.listed = a.ended + most;
    a.words = words_of(s->base.options.limits.vocab);
    a.faults = cuda_fault_words(s);
    a.first_row = (unsigned)first;
    a.told = told;
    a.told.words = told.words ? told.words + first : NULL;
    int64_t blocks = (longest + GREEDY_SHARE - 1) / GREEDY_SHARE;
    blocks = blocks < GREEDY_BLOCKS ? blocks : (int64_t)GREEDY_BLOCKS;
    if (plain)
        cuda_run(s, "sample", sample_greedy, dim3((unsigned)count, (unsigned)blocks),
                 GREEDY_THREADS, 0, a);
    else
        cuda_run(s, "sample", sample_rows, dim3((unsigned)count), THREADS, 0, a);
}

extern "C" void cuda_sample(ops_stream *stream, const struct ops_sample *op) {
    cuda_stream *s = (cuda_stream *)stream;
    if (ops_failed(&s->check) || !ops_expect_sample(&s->check, op))
        return;
    int64_t rows = op->logits.shape[0], most = rows_of(&s->base.options);
    const struct cuda_told told = cuda_expect_ids(s, &op->out, (int)((rows + most - 1) / most));
    for (int64_t first = 0; first < rows; first += most)
        sample_some(s, op, told, first, rows - first < most ? rows - first : most);
}
