/* The tokenizer against the Hugging Face `tokenizers` package, id for id: thousands of strings in
 * every script, a megabyte of text, two real tokenizers and small ones with every option. Then what
 * the package cannot say: bytes that are not UTF-8, streaming, threads, and words of a megabyte. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/random.h"
#include "fixture.h"
#include "support/support.h"
#include "text/normalize.h"
#include "text/tokenizer.h"

#define NEOX "tests/text/data/gpt-neox-20b/tokenizer.json"
#define SMALL "models/reference-17m/tokenizer.json"

static xlstm_tokenizer *load(const char *path) {
    xlstm_tokenizer *tokenizer;
    xlstm_status status = xlstm_tokenizer_load(path, &tokenizer);
    if (status != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    return tokenizer;
}

static int64_t encode(const xlstm_tokenizer *tokenizer, const char *text, size_t size, int flags,
                      int32_t **ids) {
    int64_t count;
    xlstm_status status = xlstm_encode(tokenizer, text, size, flags, ids, &count);
    if (status != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_non_null(*ids);
    return count;
}

static void check_ids(const xlstm_tokenizer *tokenizer, const char *text, const int32_t *expected,
                      int64_t expected_count) {
    int32_t *ids;
    int64_t count = encode(tokenizer, text, strlen(text), 0, &ids);
    assert_int_equal(count, expected_count);
    for (int64_t i = 0; i < count; i++)
        assert_int_equal(ids[i], expected[i]);
    xlstm_free(ids);
}

/* The ids, decoded, must be `expected`, at once and id by id; no part may end within a character
 * unless the text itself holds half of one there. */
static void check_decoded(const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                          const char *expected, size_t expected_size) {
    char *text;
    size_t size;
    assert_int_equal(xlstm_decode(tokenizer, ids, count, 0, &text, &size), XLSTM_OK);
    assert_int_equal(size, expected_size);
    assert_memory_equal(text, expected, size);
    assert_int_equal(text[size], '\0');
    xlstm_free(text);

    text_stream stream;
    text_stream_init(&stream, tokenizer, false);
    buffer out = {0}, whole = {0};
    for (int64_t i = 0; i < count; i++) {
        size_t length;
        const uint8_t *bytes = tokenizer_token_bytes(tokenizer, ids[i], &length);
        buffer_append(&whole, bytes, length);
        text_stream_feed(&stream, ids[i], &out);
        size_t tail = utf8_incomplete_tail((const uint8_t *)whole.data, whole.size);
        assert_int_equal(out.size, whole.size - tail);
    }
    text_stream_flush(&stream, &out);
    assert_int_equal(out.size, expected_size);
    if (out.size > 0)
        assert_memory_equal(out.data, expected, out.size);
    buffer_free(&out);
    buffer_free(&whole);
}

/* Decoding gives the text back, but for normalization. (The parts between added tokens are
 * normalized, each alone; the NFC of that is the NFC of the text.) */
static void check_lossless(const xlstm_tokenizer *tokenizer, const int32_t *ids, int64_t count,
                           const char *text, size_t size) {
    char *decoded;
    size_t decoded_size;
    assert_int_equal(xlstm_decode(tokenizer, ids, count, 0, &decoded, &decoded_size), XLSTM_OK);
    check_decoded(tokenizer, ids, count, decoded, decoded_size);
    buffer normal = {0}, again = {0};
    assert_true(normalize_nfc((const uint8_t *)text, size, &normal));
    assert_true(normalize_nfc((const uint8_t *)decoded, decoded_size, &again));
    assert_int_equal(again.size, normal.size);
    if (normal.size > 0)
        assert_memory_equal(again.data, normal.data, normal.size);
    buffer_free(&normal);
    buffer_free(&again);
    xlstm_free(decoded);
}

static void check_string(fixture *f, const xlstm_tokenizer *tokenizer, const char *name, int flags,
                         const fixture_string *string, size_t index) {
    int32_t *ids;
    int64_t count = encode(tokenizer, string->text, string->size, flags, &ids);
    uint64_t expected = fixture_number(f);
    bool same = (uint64_t)count == expected;
    for (uint64_t i = 0; i < expected; i++) {
        uint64_t id = fixture_number(f);
        same = same && (uint64_t)ids[i] == id;
    }
    if (!same)
        fail_msg("%s: string %zu (\"%.*s\") has other ids", name, index, (int)string->size,
                 string->text);
    if (!tokenizer->add_prefix_space && tokenizer->unknown_id < 0)
        check_lossless(tokenizer, ids, count, string->text, string->size);
    xlstm_free(ids);
}

static void check_text(fixture *f, const xlstm_tokenizer *tokenizer, int flags,
                       const buffer *text) {
    int32_t *ids;
    int64_t count = encode(tokenizer, text->data, text->size, flags, &ids);
    fixture_check_ids(f, ids, count);
    xlstm_free(ids);
}

static void test_equals_tokenizers_package(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, "tests/text/data/tokenizer.bin");
    fixture_strings strings = fixture_read_strings(&f);
    assert_true(strings.count >= 5000);
    fixture_strings words = fixture_read_strings(&f), separators = fixture_read_strings(&f);
    uint64_t word_count = fixture_number(&f), text_size = fixture_number(&f);
    assert_true(text_size >= 1 << 20);
    buffer text = {0};
    fixture_make_text(&words, &separators, word_count, &text);
    assert_int_equal(text.size, text_size);
    uint64_t tokenizers = fixture_number(&f);
    for (uint64_t i = 0; i < tokenizers; i++) {
        char name[64], path[128];
        fixture_string string = fixture_read_string(&f);
        snprintf(name, sizeof name, "%.*s", (int)string.size, string.text);
        string = fixture_read_string(&f);
        snprintf(path, sizeof path, "%.*s", (int)string.size, string.text);
        xlstm_tokenizer *tokenizer;
        if (path[0]) {
            tokenizer = load(path);
        } else {
            string = fixture_read_string(&f);
            if (tokenizer_load_memory(string.text, string.size, name, &tokenizer) != XLSTM_OK)
                fail_msg("%s", xlstm_last_error());
        }
        int flags = (int)fixture_number(&f);
        size_t stride = (size_t)fixture_number(&f);
        for (size_t k = 0; k < strings.count; k += stride)
            check_string(&f, tokenizer, name, flags, &strings.items[k], k);
        check_text(&f, tokenizer, flags, &text);
        xlstm_tokenizer_free(tokenizer);
    }
    buffer_free(&text);
    free(strings.items);
    free(words.items);
    free(separators.items);
    fixture_close(&f);
}

#define CHECK(tokenizer, text, ...)                                                                \
    do {                                                                                           \
        const int32_t expected_ids[] = {__VA_ARGS__};                                              \
        check_ids(tokenizer, text, expected_ids, sizeof expected_ids / sizeof *expected_ids);      \
    } while (0)

static void test_known_ids(void **state) {
    (void)state;
    xlstm_tokenizer *t = load(NEOX);
    assert_int_equal(xlstm_tokenizer_size(t), 50277);
    CHECK(t, "Hello world", 12092, 1533);
    CHECK(t, "def f(x):\n    return x\n", 1545, 269, 9, 89, 2262, 187, 50274, 2309, 1269, 187);
    CHECK(t, "a  b   c    d", 66, 50276, 67, 50275, 68, 50274, 69);
    CHECK(t, "<|endoftext|>Hi", 0, 12764);
    CHECK(t, "e\xCC\x81 caf\xC3\xA9", 860, 36241);
    CHECK(t, "don't I'll WE'RE", 9903, 626, 309, 1833, 13573, 8, 1848);
    check_ids(t, "", NULL, 0);
    xlstm_tokenizer_free(t);
}

/* The tokenizer of a file whose merges are written as ["a", "b"], as newer files have them. */
static xlstm_tokenizer *load_with_pairs(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    json_t *model = json_object_get(root, "model"), *merges = json_object_get(model, "merges");
    json_t *pairs = json_array();
    size_t index;
    json_t *merge;
    json_array_foreach(merges, index, merge) {
        const char *left = json_string_value(merge), *space = strchr(left, ' ');
        json_array_append_new(pairs, json_pack("[s#s]", left, (int)(space - left), space + 1));
    }
    assert_int_equal(json_array_size(pairs), 50009);
    json_object_set_new(model, "merges", pairs);
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    xlstm_tokenizer *tokenizer;
    assert_int_equal(tokenizer_load_memory(text, strlen(text), "pairs", &tokenizer), XLSTM_OK);
    free(text);
    json_decref(root);
    return tokenizer;
}

static void test_merges_as_pairs(void **state) {
    (void)state;
    xlstm_tokenizer *strings = load(NEOX), *pairs = load_with_pairs(NEOX);
    buffer text = {0};
    assert_int_equal(file_read("tests/text/test_tokenizer.c", 1 << 20, &text), XLSTM_OK);
    int32_t *ids, *same;
    int64_t count = encode(strings, text.data, text.size, 0, &ids);
    assert_int_equal(encode(pairs, text.data, text.size, 0, &same), count);
    assert_memory_equal(ids, same, (size_t)count * sizeof *ids);
    assert_int_equal(strings->merges.mask, pairs->merges.mask);
    assert_memory_equal(strings->merges.places, pairs->merges.places,
                        (strings->merges.mask + 1) * sizeof *strings->merges.places);
    xlstm_free(ids);
    xlstm_free(same);
    buffer_free(&text);
    xlstm_tokenizer_free(strings);
    xlstm_tokenizer_free(pairs);
}

static void test_lookups_and_special_tokens(void **state) {
    (void)state;
    xlstm_tokenizer *t = load("models/reference-17m"); /* a folder */
    assert_int_equal(xlstm_tokenizer_size(t), 4096);
    assert_int_equal(tokenizer_added_id(t, "<|endoftext|>"), 0);
    assert_int_equal(tokenizer_added_id(t, "<|padding|>"), 1);
    assert_int_equal(tokenizer_added_id(t, "the"), -1);
    assert_true(tokenizer_is_special(t, 1));
    assert_false(tokenizer_is_special(t, 2));
    assert_false(tokenizer_is_special(t, -1));
    assert_false(tokenizer_is_special(t, 4096));
    size_t size;
    assert_memory_equal(tokenizer_token_bytes(t, 0, &size), "<|endoftext|>", 13);
    assert_int_equal(size, 13);
    assert_non_null(tokenizer_token_bytes(t, 99999, &size));
    assert_int_equal(size, 0);

    int32_t *ids, *plain;
    const char *text = "a<|endoftext|>b";
    int64_t count = encode(t, text, strlen(text), 0, &ids);
    assert_int_equal(count, 3);
    char *decoded;
    assert_int_equal(xlstm_decode(t, ids, count, XLSTM_SKIP_SPECIAL, &decoded, &size), XLSTM_OK);
    assert_string_equal(decoded, "ab");
    xlstm_free(decoded);
    int64_t plain_count = encode(t, text, strlen(text), XLSTM_PLAIN_TEXT, &plain);
    assert_true(plain_count > 3);
    for (int64_t i = 0; i < plain_count; i++)
        assert_true(plain[i] > 1);
    check_decoded(t, plain, plain_count, text, strlen(text));
    xlstm_free(ids);
    xlstm_free(plain);
    xlstm_tokenizer_free(t);
}

static void test_decode_odd_ids(void **state) {
    (void)state;
    xlstm_tokenizer *t = load(NEOX);
    char *text;
    size_t size;
    /* Ids of the model beyond the tokenizer have no text. */
    assert_int_equal(xlstm_decode(t, (int32_t[]){66, 50303, INT32_MAX, 67}, 4, 0, &text, &size),
                     XLSTM_OK);
    assert_string_equal(text, "ab");
    xlstm_free(text);
    assert_int_equal(xlstm_decode(t, NULL, 0, 0, &text, &size), XLSTM_OK);
    assert_string_equal(text, "");
    xlstm_free(text);
    assert_int_equal(xlstm_decode(t, (int32_t[]){66, -5}, 2, 0, &text, &size),
                     XLSTM_INVALID_ARGUMENT);
    assert_null(text);
    assert_string_equal(xlstm_last_error(), "id -5 at index 1 is negative");
    xlstm_tokenizer_free(t);
}

/* Random bytes with much structure: lead bytes, half characters, ASCII, spaces, special tokens. */
static size_t random_bytes(uint64_t seed, char *out, size_t most) {
    static const char *const parts[] = {
        "\xF0\x9F",  "\x98\x80",     "\xE2\x82\xAC", "\xC3",          "\xA9", "\xFF",
        "\xC0",      "\xED\xA0\x80", "<|endoftext|", "<|endoftext|>", "  ",   "\n",
        "e\xCC\x81", "\xCC\x81",     "'s",           "word"};
    size_t size = 0;
    uint64_t length = random_bits(seed, 0, 0) % most;
    for (uint64_t i = 1; size + 16 < length; i++) {
        uint64_t r = random_bits(seed, 0, i);
        if (r & 1) {
            const char *part = parts[r / 2 % (sizeof parts / sizeof *parts)];
            memcpy(out + size, part, strlen(part));
            size += strlen(part);
        } else {
            out[size++] = (char)(r >> 8);
        }
    }
    return size;
}

static void test_any_bytes_survive(void **state) {
    (void)state;
    xlstm_tokenizer *t = load(SMALL); /* it has a token for every byte */
    for (uint64_t seed = 0; seed < (test_is_quick() ? 500 : 20000); seed++) {
        char text[512];
        size_t size = random_bytes(seed, text, sizeof text);
        int32_t *ids;
        int64_t count = encode(t, text, size, XLSTM_PLAIN_TEXT, &ids);
        check_lossless(t, ids, count, text, size);
        xlstm_free(ids);
    }
    xlstm_tokenizer_free(t);
}

static void test_every_byte_alone(void **state) {
    (void)state;
    xlstm_tokenizer *small = load(SMALL), *neox = load(NEOX);
    for (int byte = 0; byte < 256; byte++) {
        char text[3] = {'a', (char)byte, 'b'};
        int32_t *ids;
        int64_t count = encode(small, text, 3, 0, &ids);
        check_decoded(small, ids, count, text, 3);
        xlstm_free(ids);
        /* GPT-NeoX has no tokens for bytes that never occur in UTF-8. */
        bool impossible = byte == 0xC0 || byte == 0xC1 || byte >= 0xF5;
        xlstm_status status = xlstm_encode(neox, text, 3, 0, &ids, &count);
        assert_int_equal(status, impossible ? XLSTM_INVALID_ARGUMENT : XLSTM_OK);
        if (impossible) {
            assert_non_null(strstr(xlstm_last_error(), "has neither a token nor an unk_token"));
            assert_null(ids);
        } else {
            check_decoded(neox, ids, count, text, 3);
            xlstm_free(ids);
        }
    }
    xlstm_tokenizer_free(small);
    xlstm_tokenizer_free(neox);
}

/* What a stream with `replace` gives, cut after every id: always well-formed, never more than the
 * whole, and in the end what the whole text becomes. */
static void check_replaced(const xlstm_tokenizer *t, const int32_t *ids, int64_t count,
                           const buffer *expected) {
    text_stream stream;
    buffer out = {0};
    text_stream_init(&stream, t, false);
    stream.replace = true;
    for (int64_t i = 0; i < count; i++) {
        text_stream_feed(&stream, ids[i], &out);
        assert_int_equal(utf8_valid_length((const uint8_t *)out.data, out.size), out.size);
        assert_true(out.size <= expected->size);
        if (out.size > 0)
            assert_memory_equal(out.data, expected->data, out.size);
    }
    text_stream_flush(&stream, &out);
    assert_int_equal(out.size, expected->size);
    if (out.size > 0)
        assert_memory_equal(out.data, expected->data, out.size);
    buffer_free(&out);
}

/* The ids of whole words, and of every byte alone. */
static void test_streams_are_utf8(void **state) {
    (void)state;
    xlstm_tokenizer *t = load(SMALL);
    for (uint64_t seed = 0; seed < (test_is_quick() ? 500 : 20000); seed++) {
        char text[512], *decoded;
        size_t size = random_bytes(seed, text, sizeof text), decoded_size;
        int32_t *ids, alone[512];
        int64_t count = encode(t, text, size, XLSTM_PLAIN_TEXT, &ids);
        assert_int_equal(xlstm_decode(t, ids, count, 0, &decoded, &decoded_size), XLSTM_OK);
        buffer expected = {0};
        utf8_append_valid((const uint8_t *)decoded, decoded_size, &expected);
        check_replaced(t, ids, count, &expected);
        buffer_clear(&expected);
        utf8_append_valid((const uint8_t *)text, size, &expected);
        for (size_t i = 0; i < size; i++)
            alone[i] = t->byte_ids[(uint8_t)text[i]];
        check_replaced(t, alone, (int64_t)size, &expected);
        buffer_free(&expected);
        xlstm_free(decoded);
        xlstm_free(ids);
    }
    xlstm_tokenizer_free(t);
}

/* Merges, literally as they are defined: of all pairs the lowest rank, of those the leftmost. */
static size_t merge_plainly(const xlstm_tokenizer *t, int32_t *ids, size_t count) {
    for (;;) {
        size_t best = SIZE_MAX;
        uint32_t best_rank = UINT32_MAX;
        int32_t best_id = -1;
        for (size_t i = 0; i + 1 < count; i++) {
            uint64_t pair = (uint64_t)(uint32_t)ids[i] << 32 | (uint32_t)ids[i + 1];
            for (uint64_t k = 0; k <= t->merges.mask; k++) {
                const bpe_merge *merge = &t->merges.places[k];
                if (merge->pair == pair && merge->rank < best_rank) {
                    best = i;
                    best_rank = merge->rank;
                    best_id = merge->id;
                }
            }
        }
        if (best == SIZE_MAX)
            return count;
        ids[best] = best_id;
        memmove(ids + best + 1, ids + best + 2, (count - best - 2) * sizeof *ids);
        count--;
    }
}

/* Short and long pieces are merged in different ways: both against the definition. */
static void test_merging_by_definition(void **state) {
    (void)state;
    static const char json[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"aab\":4,"
        "\"ba\":5,"
        "\"aaaa\":6,\"abab\":7,\"bb\":8,\"aabba\":9},\"merges\":[\"b a\",\"a a\",\"a b\",\"aa aa\","
        "\"aa b\",\"ab ab\",\"b b\",\"aab ba\"]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"decoder\":{\"type\":\"ByteLevel\"}}";
    xlstm_tokenizer *t;
    assert_int_equal(tokenizer_load_memory(json, sizeof json - 1, "json", &t), XLSTM_OK);
    for (uint64_t seed = 0; seed < 600; seed++) {
        char text[160];
        int32_t expected[160];
        size_t size = 1 + random_bits(seed, 1, 0) % sizeof text;
        for (size_t i = 0; i < size; i++) {
            expected[i] = random_bits(seed, 1, i + 1) % 3 == 0;
            text[i] = (char)('a' + expected[i]);
        }
        size_t count = merge_plainly(t, expected, size);
        int32_t *ids;
        assert_int_equal(encode(t, text, size, 0, &ids), count);
        assert_memory_equal(ids, expected, count * sizeof *ids);
        xlstm_free(ids);
    }
    xlstm_tokenizer_free(t);
}

/* Nothing may be quadratic: a megabyte that is one piece takes less than a second on any machine.
 */
static void test_a_word_of_a_megabyte(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    char *text = malloc(SIZE);
    assert_non_null(text);
    const char *const paths[] = {NEOX, SMALL};
    for (size_t p = 0; p < 2; p++) {
        xlstm_tokenizer *t = load(paths[p]);
        for (int kind = 0; kind < 4; kind++) {
            for (size_t i = 0; i < SIZE; i++) {
                uint64_t r = random_bits(7, (uint64_t)kind, i);
                char any = (char)('a' + r % 26);
                text[i] = kind == 0 ? 'a' : kind == 1 ? any : kind == 2 ? ' ' : "\xCC\x81"[i % 2];
            }
            double start = clock_seconds();
            int32_t *ids;
            int64_t count = encode(t, text, SIZE, 0, &ids);
            double limit = test_is_quick() ? 60 : 10;
            assert_true(clock_seconds() - start < limit);
            check_decoded(t, ids, count, text, SIZE);
            xlstm_free(ids);
        }
        xlstm_tokenizer_free(t);
    }
    free(text);
}

typedef struct thread_work {
    const xlstm_tokenizer *tokenizer;
    const buffer *text;
    const int32_t *expected;
    int64_t expected_count;
    bool good;
} thread_work;

static void *encode_again(void *argument) {
    thread_work *work = argument;
    work->good = true;
    for (int i = 0; i < 20 && work->good; i++) {
        int32_t *ids;
        int64_t count;
        work->good = xlstm_encode(work->tokenizer, work->text->data, work->text->size, 0, &ids,
                                  &count) == XLSTM_OK &&
                     count == work->expected_count &&
                     memcmp(ids, work->expected, (size_t)count * sizeof *ids) == 0;
        xlstm_free(ids);
    }
    return NULL;
}

static void test_threads_share_a_tokenizer(void **state) {
    (void)state;
    xlstm_tokenizer *t = load(NEOX);
    buffer text = {0};
    assert_int_equal(file_read("tests/text/test_tokenizer.c", 1 << 20, &text), XLSTM_OK);
    int32_t *ids;
    int64_t count = encode(t, text.data, text.size, 0, &ids);
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    thread_work work[THREADS];
    for (int i = 0; i < THREADS; i++) {
        work[i] = (thread_work){t, &text, ids, count, false};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_again, &work[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(work[i].good);
    }
    xlstm_free(ids);
    buffer_free(&text);
    xlstm_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_tokenizers_package),
        cmocka_unit_test(test_known_ids),
        cmocka_unit_test(test_merges_as_pairs),
        cmocka_unit_test(test_lookups_and_special_tokens),
        cmocka_unit_test(test_decode_odd_ids),
        cmocka_unit_test(test_any_bytes_survive),
        cmocka_unit_test(test_every_byte_alone),
        cmocka_unit_test(test_streams_are_utf8),
        cmocka_unit_test(test_merging_by_definition),
        cmocka_unit_test(test_a_word_of_a_megabyte),
        cmocka_unit_test(test_threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
