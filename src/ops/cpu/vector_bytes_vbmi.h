/* The bytes and scales of blocks where a processor permutes the 64 bytes of a vector in one step, and
 * shifts bits within them: as vector_bytes.h, which includes this file. */

enum { GROUP = WORDS };

#define EIGHT_TIMES(b) b, b, b, b, b, b, b, b
#define SIXTEEN_TIMES(b) EIGHT_TIMES(b), EIGHT_TIMES(b)
#define SIXTEEN_PLACES 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
static const vec_bytes block_of = {SIXTEEN_TIMES(0), SIXTEEN_TIMES(1), SIXTEEN_TIMES(2),
                                   SIXTEEN_TIMES(3)};
static const vec_bytes place_of = {SIXTEEN_PLACES, SIXTEEN_PLACES, SIXTEEN_PLACES, SIXTEEN_PLACES};

/* Byte index[i] after p, where `mask` has a bit, and `before` elsewhere. `last` is the largest index:
 * where it is no byte of the first vector, those beyond come from a second that ends at `end`. */
ALWAYS_INLINE __m512i pick(__m512i before, __mmask64 mask, const char *p, vec_bytes index,
                           const int last, const int end) {
    __m512i picked =
        _mm512_mask_permutexvar_epi8(before, mask, (__m512i)index, _mm512_loadu_si512(p));
    if (last < VECTOR_BYTES)
        return picked;
    const int second = end - VECTOR_BYTES;
    const __mmask64 beyond = _mm512_cmpge_epu8_mask((__m512i)index, _mm512_set1_epi8(VECTOR_BYTES));
    return _mm512_mask_permutexvar_epi8(picked, mask & beyond, (__m512i)(index - (uint8_t)second),
                                        _mm512_loadu_si512(p + second));
}

/* The same sixteen bytes, from `first` on, of every block. */
ALWAYS_INLINE vec_bytes load_sixteens(dtype type, const char *p, const int first) {
    const int size = (int)block_bytes(type), last = 3 * size + first + 15;
    /* Four blocks of q8_0 are longer than two vectors, sixteens of them are not. */
    const int from = last < 2 * VECTOR_BYTES ? 0 : last + 1 - 2 * VECTOR_BYTES;
    const int end = 4 * size < 2 * VECTOR_BYTES ? 4 * size : 2 * VECTOR_BYTES;
    const vec_bytes index = block_of * (uint8_t)size + place_of + (uint8_t)(first - from);
    return (vec_bytes)pick(_mm512_setzero_si512(), ~(__mmask64)0, p + from, index, last - from,
                           end);
}

/* table[index] in every sixteen bytes, by the lower four bits of the index. */
ALWAYS_INLINE vec_bytes look_up(vec_bytes table, vec_bytes index) {
    return (vec_bytes)_mm512_permutexvar_epi8((__m512i)index, (__m512i)table);
}

/* The upper four bits of every byte. */
ALWAYS_INLINE vec_bytes upper(vec_bytes pairs) {
    const long long matrix = 0x1020408000000000; /* of bits: shifts them down by four */
    return (vec_bytes)_mm512_gf2p8affine_epi64_epi8((__m512i)pairs, _mm512_set1_epi64(matrix), 0);
}

/* u with 16 more where the value has its fifth bit. */
ALWAYS_INLINE void add_fifths(dtype type, const char *p, vec_bytes u[2]) {
    const int size = (int)block_bytes(type), last = 3 * size + size - 17;
    const vec_bytes index = block_of * (uint8_t)size + place_of % 4 + (uint8_t)(size - 20);
    const __m512i bits = pick(_mm512_setzero_si512(), ~(__mmask64)0, p, index, last,
                              4 * size); /* in every 4 bytes */
    UNROLL
    for (int half = 0; half < 2; half++) {
        /* Eight bits from four before it: the one that counts becomes the fifth. */
        const vec_bytes from = (place_of + (uint8_t)(16 * half + 28)) % 32;
        __m512i fifth = _mm512_multishift_epi64_epi8((__m512i)from, bits);
        u[half] = (vec_bytes)_mm512_ternarylogic_epi64(fifth, _mm512_set1_epi8(16),
                                                       (__m512i)u[half], 0xEA); /* (a & b) | c */
    }
}

/* d of every block of four rows; with `first` 2, m. Lane 4 b + r is of block b in row r. */
ALWAYS_INLINE vec load_group(dtype type, const char *const rows[GROUP], const int first) {
    const vec_bytes block = {EIGHT_TIMES(0), EIGHT_TIMES(1), EIGHT_TIMES(2), EIGHT_TIMES(3)};
    const int size = (int)block_bytes(type), last = 3 * size + first + 1;
    const int end = 4 * size < 2 * VECTOR_BYTES ? 4 * size : 2 * VECTOR_BYTES;
    const vec_bytes index = block * (uint8_t)size + place_of % 2 + (uint8_t)first;
    __m512i halves = _mm512_setzero_si512();
    UNROLL
    for (int r = 0; r < GROUP; r++)
        halves = pick(halves, (__mmask64)0x03030303 << 2 * r, rows[r], index, last, end);
    return (vec)_mm512_cvtph_ps(_mm512_castsi512_si256(halves));
}

/* Those of one row, in all lanes of their blocks; `row` is a constant. */
ALWAYS_INLINE vec of_row(vec group, const int row) {
    switch (row) {
    case 0:
        return (vec)_mm512_permute_ps((__m512)group, 0x00);
    case 1:
        return (vec)_mm512_permute_ps((__m512)group, 0x55);
    case 2:
        return (vec)_mm512_permute_ps((__m512)group, 0xAA);
    default:
        return (vec)_mm512_permute_ps((__m512)group, 0xFF);
    }
}
