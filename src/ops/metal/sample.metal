/* Logits to ids, by the rules of struct ops_sample: a threadgroup a row, in integers alone (wide.h).
 *
 * Nothing is sorted. A rule keeps the first ids in falling order up to where a count, or a sum of weights,
 * reaches what is needed. That place is found from the leading bits of (rank, id) downwards: the sum of
 * each value of the next bits, then which of them holds the place, then only among those. Bits in which
 * the ones that are left agree are skipped. Sums of integers depend on no order, so that atomics may make
 * them. */
#include <metal_stdlib>

#include "ops/metal/common.h"
#include "ops/metal/faults.h"
#include "ops/metal/sample_arguments.h"
#include "ops/metal/wide.h"

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS };

/* A row, as every thread sees it. */
struct sampled_row {
    device const uint *logits;
    device atomic_uint *listed; /* a bit an id: penalised */
    uint limit, thread_index, threads;
    bool penalising;
    uint penalty;
    int penalty_exponent;
    ulong highest, scale; /* the highest logit as a double; 1 / temperature, see distance_of() */
    int scale_exponent;
    uint rounding; /* bits of a weight that are rounded away, so that 64 hold the sum */
};

/* Ids up to `rank` and, of that rank, up to `id`, whose weight is `least` at least. */
struct kept_ids {
    ulong rank;
    uint id;
    ulong least;
};

/* What the threads of a threadgroup share. */
struct shared_memory {
    threadgroup atomic_uint *count, *low, *high; /* [DIGITS]; low and high words of sums */
    threadgroup atomic_uint *all, *any; /* [3]: bits that all, and that some have: rank, id */
    threadgroup uint *best;             /* [3][MOST_SIMD_GROUPS] */
    threadgroup ulong *needed;
    threadgroup uint *digit;
};

static inline ulong rank_of(thread const sampled_row &row, uint id) {
    uint bits = row.logits[id];
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return no_rank;
    ulong logit = double_of(bits);
    if (row.penalising &&
        (atomic_load_explicit(row.listed + (id >> 5), memory_order_relaxed) >> (id & 31u) & 1u) != 0u)
        logit = penalise(logit, row.penalty, row.penalty_exponent);
    return rank_of_double(logit);
}

static inline bool is_kept(thread const kept_ids &kept, ulong rank, uint id) {
    return rank < kept.rank || (rank == kept.rank && id <= kept.id);
}

/* exp((logit - highest) / temperature), rounded; 0 below `least`. */
static inline ulong weight_of(thread const sampled_row &row, thread const kept_ids &kept, ulong rank) {
    ulong weight = power_of_half(
        distance_of(row.highest, double_of_rank(rank), row.scale, row.scale_exponent));
    if (weight < kept.least)
        return 0ul;
    ulong half_unit = row.rounding != 0u ? 1ul << ulong(row.rounding - 1u) : 0ul;
    return (weight + half_unit) >> ulong(row.rounding);
}

/* Sets the bits of the listed ids. */
static inline void list_penalised(thread const sampled_row &row, device const int *ids, int count) {
    for (uint i = row.thread_index; i <= (row.limit - 1u) >> 5; i += row.threads)
        atomic_store_explicit(row.listed + i, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
    for (uint i = row.thread_index; i < uint(count); i += row.threads)
        if (ids[i] >= 0 && uint(ids[i]) < row.limit)
            atomic_fetch_or_explicit(row.listed + (ids[i] >> 5), 1u << (uint(ids[i]) & 31u),
                                     memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
}

/* The lowest of (rank, id) over the SIMD-group. */
static inline void lowest_of_lanes(thread ulong &rank, thread uint &id) {
    uint high = simd_min(uint(rank >> 32));
    uint low = simd_min(uint(rank >> 32) == high ? uint(rank) : ~0u);
    id = simd_min(rank == wide(high, low) ? id : ~0u);
    rank = wide(high, low);
}

/* The first id in falling order, and its rank; no_rank where there is no finite logit. */
static inline void find_first(thread const sampled_row &row, thread const shared_memory &m,
                              uint simd_group, uint lane, thread ulong &rank, thread uint &id) {
    rank = no_rank;
    id = ~0u;
    for (uint i = row.thread_index; i < row.limit; i += row.threads) {
        ulong other = rank_of(row, i);
        id = other < rank ? i : id;
        rank = other < rank ? other : rank;
    }
    lowest_of_lanes(rank, id);
    if (lane == 0u) {
        m.best[simd_group] = uint(rank >> 32);
        m.best[MOST_SIMD_GROUPS + simd_group] = uint(rank);
        m.best[2 * MOST_SIMD_GROUPS + simd_group] = id;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    bool there = lane < row.threads / SIMD_LANES;
    rank = there ? wide(m.best[lane], m.best[MOST_SIMD_GROUPS + lane]) : no_rank;
    id = there ? m.best[2 * MOST_SIMD_GROUPS + lane] : ~0u;
    lowest_of_lanes(rank, id);
}

/* ---- The place where a sum reaches what is needed ---- */

enum sum_needed { NEED_COUNT, NEED_SHARE, NEED_MORE_THAN_SHARE };

/* Ids with these leading bits. */
struct rank_span {
    ulong rank_mask, rank;
    uint id_mask, id;
};

static inline bool is_in(thread const rank_span &s, ulong rank, uint id) {
    return (rank & s.rank_mask) == s.rank && (id & s.id_mask) == s.id;
}

static inline void clear_shared(thread const sampled_row &row, thread const shared_memory &m) {
    for (uint i = row.thread_index; i < uint(DIGITS); i += row.threads) {
        atomic_store_explicit(m.count + i, 0u, memory_order_relaxed);
        atomic_store_explicit(m.low + i, 0u, memory_order_relaxed);
        atomic_store_explicit(m.high + i, 0u, memory_order_relaxed);
    }
    for (uint i = row.thread_index; i < 3u; i += row.threads) {
        atomic_store_explicit(m.all + i, ~0u, memory_order_relaxed);
        atomic_store_explicit(m.any + i, 0u, memory_order_relaxed);
    }
}

/* In which bits the kept ids of a span agree. */
static inline void compare_bits(thread const sampled_row &row, thread const shared_memory &m,
                                thread const kept_ids &kept, thread const rank_span &s, uint lane) {
    ulong all = ~0ul, any = 0ul;
    uint id_all = ~0u, id_any = 0u;
    for (uint i = row.thread_index; i < row.limit; i += row.threads) {
        ulong rank = rank_of(row, i);
        if (!is_kept(kept, rank, i) || !is_in(s, rank, i))
            continue;
        all &= rank;
        any |= rank;
        id_all &= i;
        id_any |= i;
    }
    uint words[6] = {simd_and(uint(all >> 32)), simd_and(uint(all)), simd_and(id_all),
                     simd_or(uint(any >> 32)),  simd_or(uint(any)),  simd_or(id_any)};
    if (lane != 0u)
        return;
    for (uint i = 0u; i < 3u; i++) {
        atomic_fetch_and_explicit(m.all + i, words[i], memory_order_relaxed);
        atomic_fetch_or_explicit(m.any + i, words[3u + i], memory_order_relaxed);
    }
}

static inline uint shared_word(threadgroup atomic_uint *words, uint i) {
    return atomic_load_explicit(words + i, memory_order_relaxed);
}

/* Adds up the kept ids of a span by the digit at `shift` of their rank or id. */
static inline void add_up(thread const sampled_row &row, thread const shared_memory &m,
                          thread const kept_ids &kept, thread const rank_span &s, bool by_id, uint shift,
                          bool weights) {
    for (uint i = row.thread_index; i < row.limit; i += row.threads) {
        ulong rank = rank_of(row, i);
        if (!is_kept(kept, rank, i) || !is_in(s, rank, i))
            continue;
        uint digit = uint((by_id ? ulong(i) : rank) >> ulong(shift)) & uint(DIGITS - 1);
        if (!weights) {
            atomic_fetch_add_explicit(m.count + digit, 1u, memory_order_relaxed);
            continue;
        }
        ulong weight = weight_of(row, kept, rank);
        uint low = uint(weight);
        uint before = atomic_fetch_add_explicit(m.low + digit, low, memory_order_relaxed);
        uint carry = before + low < low ? 1u : 0u;
        atomic_fetch_add_explicit(m.high + digit, uint(weight >> 32) + carry, memory_order_relaxed);
    }
}

static inline ulong sum_of_digit(thread const shared_memory &m, uint digit, bool weights) {
    return weights ? wide(shared_word(m.high, digit), shared_word(m.low, digit))
                   : ulong(shared_word(m.count, digit));
}

/* The smallest sum that is at least, or more than, share 2^-64 of the total. */
static inline ulong share_of(ulong total, ulong share, bool more) {
    ulong floor = multiply_high(total, share);
    return more || total * share != 0ul ? floor + 1ul : floor;
}

/* By one thread: which digit the place has, and what is needed within it. On the first call `value` is a
 * count that may be more than there are, or a share. */
static inline void choose_digit(thread const shared_memory &m, sum_needed kind, bool first, ulong value) {
    bool weights = kind != NEED_COUNT;
    if (first) {
        ulong total = 0ul;
        for (uint d = 0u; d < uint(DIGITS); d++)
            total += sum_of_digit(m, d, weights);
        value = weights ? share_of(total, value, kind == NEED_MORE_THAN_SHARE) : min(value, total);
    }
    uint digit = 0u;
    for (; digit < uint(DIGITS - 1); digit++) {
        ulong sum = sum_of_digit(m, digit, weights);
        if (value <= sum)
            break;
        value -= sum;
    }
    *m.digit = digit;
    *m.needed = value;
}

/* Narrows `kept` to the ids up to the first where the sum reaches what is needed. All threads must come
 * here. */
static inline void narrow(thread const sampled_row &row, thread const shared_memory &m, uint lane,
                          sum_needed kind, ulong value, thread kept_ids &kept) {
    rank_span s = {0ul, 0ul, 0u, 0u};
    for (bool first = true;; first = false) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        clear_shared(row, m);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        compare_bits(row, m, kept, s, lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        ulong all = wide(shared_word(m.all, 0u), shared_word(m.all, 1u));
        ulong differ = all ^ wide(shared_word(m.any, 0u), shared_word(m.any, 1u));
        uint id_all = shared_word(m.all, 2u), id_differ = id_all ^ shared_word(m.any, 2u);
        if (differ == 0ul && id_differ == 0u) {
            kept.rank = all;
            kept.id = id_all;
            return;
        }
        bool by_id = differ == 0ul;
        uint top = 64u - leading_zeros(by_id ? ulong(id_differ) : differ);
        uint shift = top > uint(DIGIT_BITS) ? top - uint(DIGIT_BITS) : 0u;
        add_up(row, m, kept, s, by_id, shift, kind != NEED_COUNT);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (row.thread_index == 0u)
            choose_digit(m, kind, first, value);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        value = *m.needed;
        ulong mask = ~0ul << ulong(shift), digit_mask = ulong(DIGITS - 1) << ulong(shift);
        ulong digit = ulong(*m.digit) << ulong(shift);
        s.rank_mask = by_id ? ~0ul : mask;
        s.rank = by_id ? all : (all & mask & ~digit_mask) | digit;
        s.id_mask = by_id ? uint(mask) : 0u;
        s.id = by_id ? (id_all & uint(mask & ~digit_mask)) | uint(digit) : 0u;
    }
}

/* ---- The kernel ---- */

kernel void sample_rows(constant sample_arguments &a [[buffer(0)]],
                        device const uint *logits [[buffer(1)]],
                        device const int *penalised [[buffer(2)]],
                        device atomic_uint *listed [[buffer(3)]], device int *out [[buffer(4)]],
                        device atomic_uint *faults [[buffer(5)]],
                        uint index [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]],
                        uint threads [[threads_per_threadgroup]],
                        uint simd_group [[simdgroup_index_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]]) {
    threadgroup atomic_uint sums[3 * DIGITS], bits[6];
    threadgroup uint best[3 * MOST_SIMD_GROUPS], broken[MOST_SIMD_GROUPS], digit[1];
    threadgroup ulong needed[1];
    shared_memory m = {sums, sums + DIGITS, sums + 2 * DIGITS, bits, bits + 3, best, needed, digit};
    constant sample_rule &rule = a.rule[index];
    sampled_row row;
    row.logits = logits + a.logits_first + ulong(index) * a.logits_stride;
    row.listed = listed + a.listed_first + index * a.words;
    row.limit = uint(rule.limit);
    row.thread_index = thread_index;
    row.threads = threads;
    row.penalising = rule.penalty != 0u && rule.penalised_count > 0;
    row.penalty = rule.penalty;
    row.penalty_exponent = rule.penalty_exponent;
    row.scale = wide(rule.scale_high, rule.scale_low);
    row.scale_exponent = rule.scale_exponent;
    row.rounding = 32u - clz(row.limit - 1u);

    /* NaN and +inf are looked for first. */
    uint bad = 0u;
    for (uint i = thread_index; i < row.limit; i += threads) {
        uint logit = row.logits[i];
        bad |= (logit & 0x7f800000u) == 0x7f800000u && logit != 0xff800000u ? 1u : 0u;
    }
    bad = simd_or(bad);
    if (lane == 0u)
        broken[simd_group] = bad;
    if (row.penalising)
        list_penalised(row, penalised + a.penalised_first + rule.penalised_first,
                       rule.penalised_count);
    ulong rank;
    uint id;
    find_first(row, m, simd_group, lane, rank, id);
    bad = simd_or(lane < threads / SIMD_LANES ? broken[lane] : 0u);
    if (bad != 0u || rank == no_rank) {
        if (thread_index == 0u) {
            out[a.out_first + index] = 0;
            report_fault(faults + a.faults_first, bad != 0u ? METAL_FAULT_SAMPLE : METAL_FAULT_EMPTY,
                         a.first_row + index);
        }
        return;
    }
    row.highest = double_of_rank(rank);
    if (rule.greedy == 0u) {
        kept_ids kept = {no_rank - 1ul, ~0u, 0ul};
        if (rule.top_k > 0)
            narrow(row, m, lane, NEED_COUNT, ulong(rule.top_k), kept);
        if (rule.top_p_high != 0u || rule.top_p_low != 0u)
            narrow(row, m, lane, NEED_SHARE, wide(rule.top_p_high, rule.top_p_low), kept);
        kept.least = wide(rule.least_high, rule.least_low);
        narrow(row, m, lane, NEED_MORE_THAN_SHARE, wide(rule.uniform_high, rule.uniform_low), kept);
        id = kept.id;
    }
    if (thread_index == 0u)
        out[a.out_first + index] = int(id);
}
