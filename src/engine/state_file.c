/* State files (docs/STATE.md): a safetensors file whose __metadata__ holds format, version,
 * fingerprint, position and checksum.
 *
 * The checksum is XXH64 over the whole file with its own sixteen digits taken as zeros, so that a
 * flipped bit anywhere is seen. It is written last, in place; until then the file lives under a
 * temporary name. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "engine/session.h"
#include "engine/state_restore.h"
#include "format/safetensors.h"

#define STATE_FORMAT "xlstm-state"
#define STATE_VERSION "1"
#define CHECKSUM_KEY "\"checksum\":\""
#define CHECKSUM_ZEROS "0000000000000000"
enum { CHECKSUM_DIGITS = 16, DATA_ALIGNMENT = 64, LENGTH_BYTES = 8 };

static const char *file_type(dtype type) {
    return type == DTYPE_F64    ? "F64"
           : type == DTYPE_F32  ? "F32"
           : type == DTYPE_BF16 ? "BF16"
                                : "F16";
}

/* ---- The header ---- */

static json_t *tensor_json(const state_tensor *t, size_t offset) {
    json_t *shape = json_array();
    for (int i = 1; i < t->pool.rank; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->pool.shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", file_type(t->pool.dtype), "shape", shape,
                     "data_offsets", (json_int_t)offset, (json_int_t)(offset + t->slot_size));
}

static json_t *header_json(const xlstm_session *session) {
    const state_pool *pool = &session->model->pool;
    char fingerprint[CHECKSUM_DIGITS + 1], position[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, model_fingerprint(session->model));
    snprintf(position, sizeof position, "%" PRId64, session->position);
    json_t *header = json_object();
    int missing = json_object_set_new(
        header, "__metadata__",
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "format", STATE_FORMAT, "version", STATE_VERSION,
                  "fingerprint", fingerprint, "position", position, "checksum", CHECKSUM_ZEROS));
    if (missing) {
        json_decref(header);
        return NULL;
    }
    size_t offset = 0;
    for (int i = 0; i < pool->count; i++) {
        char *name = state_tensor_name(pool->tensors[i].node, pool->tensors[i].kind);
        json_t *tensor = tensor_json(&pool->tensors[i], offset);
        if (!name)
            json_decref(tensor);
        int failed = name ? json_object_set_new(header, name, tensor) : -1;
        free(name);
        if (failed) {
            json_decref(header);
            return NULL;
        }
        offset += pool->tensors[i].slot_size;
    }
    return header;
}

/* The header's text, padded with spaces so that the data begin at a multiple of DATA_ALIGNMENT. */
static xlstm_status header_text(const xlstm_session *session, buffer *out) {
    json_t *header = header_json(session);
    char *text = header ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text)
        return error_memory(0, "the header of a state file");
    buffer_append(out, text, strlen(text));
    free(text);
    while (!out->failed && (out->size + LENGTH_BYTES) % DATA_ALIGNMENT != 0)
        buffer_append(out, " ", 1);
    return out->failed ? error_memory(out->size, "the header of a state file") : XLSTM_OK;
}

/* ---- Saving ---- */

static xlstm_status write_tensors(const xlstm_session *session, file_writer *file,
                                  hash64 *checksum) {
    xlstm_model *model = session->model;
    const state_pool *pool = &model->pool;
    size_t largest = 1;
    for (int i = 0; i < pool->count; i++)
        largest = pool->tensors[i].slot_size > largest ? pool->tensors[i].slot_size : largest;
    void *bytes = malloc(largest);
    if (!bytes)
        return error_memory(largest, "a state tensor");
    xlstm_status status = XLSTM_OK;
    for (int i = 0; status == XLSTM_OK && i < pool->count; i++) {
        engine_lock(model);
        status = state_read(pool, model->stream, i, session->slot, bytes);
        engine_unlock(model);
        if (status == XLSTM_OK) {
            hash64_update(checksum, bytes, pool->tensors[i].slot_size);
            file_writer_write(file, bytes, pool->tensors[i].slot_size);
        }
    }
    free(bytes);
    return status;
}

static void length_bytes(size_t length, uint8_t out[LENGTH_BYTES]) {
    for (int i = 0; i < LENGTH_BYTES; i++)
        out[i] = (uint8_t)((uint64_t)length >> (8 * i));
}

static xlstm_status save(const xlstm_session *session, const char *path, const buffer *header) {
    file_writer file;
    uint8_t length[LENGTH_BYTES];
    hash64 checksum;
    xlstm_status status = file_writer_open(path, &file);
    if (status != XLSTM_OK)
        return status;
    length_bytes(header->size, length);
    hash64_init(&checksum, 0);
    hash64_update(&checksum, length, sizeof length);
    hash64_update(&checksum, header->data, header->size);
    file_writer_write(&file, length, sizeof length);
    file_writer_write(&file, header->data, header->size);
    status = write_tensors(session, &file, &checksum);
    if (status != XLSTM_OK) {
        file_writer_cancel(&file);
        return status;
    }
    /* Our own compact text: the key occurs in it once, before any name could imitate it. */
    const char *digits = strstr(header->data, CHECKSUM_KEY CHECKSUM_ZEROS);
    char text[CHECKSUM_DIGITS + 1];
    snprintf(text, sizeof text, "%016" PRIx64, hash64_digest(&checksum));
    size_t offset = LENGTH_BYTES + (size_t)(digits - header->data) + strlen(CHECKSUM_KEY);
    file_writer_write_at(&file, offset, text, CHECKSUM_DIGITS);
    return file_writer_commit(&file);
}

xlstm_status xlstm_session_save(const xlstm_session *session, const char *path) {
    if (!path || !*path)
        return error_set(XLSTM_INVALID_ARGUMENT, "no path to save the state to was given");
    if (session->broken)
        return error_set(XLSTM_DEVICE_ERROR,
                         "the device failed while this session was evaluated; there is no "
                         "state to save");
    buffer header = {0};
    xlstm_status status = header_text(session, &header);
    if (status == XLSTM_OK)
        status = save(session, path, &header);
    buffer_free(&header);
    return status;
}

/* ---- Loading ---- */

typedef struct state_header {
    int64_t position;
    uint64_t fingerprint, checksum;
    size_t checksum_offset; /* of its digits in the file */
} state_header;

/* Exactly `CHECKSUM_DIGITS` hexadecimal digits. */
static bool parse_hex(const char *text, uint64_t *value) {
    if (!text || strspn(text, "0123456789abcdef") != CHECKSUM_DIGITS || text[CHECKSUM_DIGITS])
        return false;
    *value = strtoull(text, NULL, 16);
    return true;
}

static bool parse_position(const char *text, int64_t *value) {
    size_t digits = text ? strspn(text, "0123456789") : 0;
    if (digits == 0 || digits > 18 || text[digits])
        return false;
    *value = strtoll(text, NULL, 10);
    return true;
}

static const char *metadata_text(const json_t *metadata, const char *key) {
    return json_string_value(json_object_get(metadata, key));
}

static xlstm_status read_metadata(const json_t *metadata, const char *path, state_header *out) {
    const char *format = metadata_text(metadata, "format"),
               *version = metadata_text(metadata, "version");
    if (!format || strcmp(format, STATE_FORMAT) != 0)
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s is not a state file: its metadata do not say format \"%s\"", path,
                         STATE_FORMAT);
    if (!version || strcmp(version, STATE_VERSION) != 0)
        return error_set(XLSTM_UNSUPPORTED,
                         "%s is a state file of version \"%.20s\"; this program reads version %s",
                         path, version ? version : "", STATE_VERSION);
    if (!parse_hex(metadata_text(metadata, "fingerprint"), &out->fingerprint) ||
        !parse_hex(metadata_text(metadata, "checksum"), &out->checksum) ||
        !parse_position(metadata_text(metadata, "position"), &out->position))
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s: fingerprint, checksum or position is missing or not a number", path);
    return XLSTM_OK;
}

/* safetensors_parse has checked the header's length against the file. */
static xlstm_status read_header(const file_map *map, const char *path, state_header *out) {
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)map->data[i] << (8 * i);
    json_t *header;
    xlstm_status status =
        json_parse((const char *)map->data + LENGTH_BYTES, (size_t)length, path, &header);
    if (status != XLSTM_OK)
        return status;
    status = read_metadata(json_object_get(header, "__metadata__"), path, out);
    json_decref(header);
    const void *key =
        memmem(map->data + LENGTH_BYTES, (size_t)length, CHECKSUM_KEY, strlen(CHECKSUM_KEY));
    if (status == XLSTM_OK && !key)
        return error_set(XLSTM_FORMAT_ERROR, "%s: the checksum is not where a state file has it",
                         path);
    if (status == XLSTM_OK)
        out->checksum_offset = (size_t)((const uint8_t *)key - map->data) + strlen(CHECKSUM_KEY);
    return status;
}

static xlstm_status check_checksum(const file_map *map, const char *path,
                                   const state_header *header) {
    hash64 h;
    size_t after = header->checksum_offset + CHECKSUM_DIGITS;
    hash64_init(&h, 0);
    if (after <= map->size) {
        hash64_update(&h, map->data, header->checksum_offset);
        hash64_update(&h, CHECKSUM_ZEROS, CHECKSUM_DIGITS);
        hash64_update(&h, map->data + after, map->size - after);
    }
    if (after > map->size || hash64_digest(&h) != header->checksum)
        return error_set(XLSTM_FORMAT_ERROR,
                         "%s is damaged: its checksum does not match its content", path);
    return XLSTM_OK;
}

static xlstm_status load(xlstm_session *session, const char *path, const file_map *map,
                         const stored_tensors *file) {
    xlstm_model *model = session->model;
    state_header header = {0};
    xlstm_status status = read_header(map, path, &header);
    if (status == XLSTM_OK)
        status = check_checksum(map, path, &header);
    if (status == XLSTM_OK && header.fingerprint != model_fingerprint(model))
        status = error_set(XLSTM_FORMAT_ERROR,
                           "%s belongs to another model: its fingerprint is %016" PRIx64
                           ", that of %s is %016" PRIx64,
                           path, header.fingerprint, model->source.path, model_fingerprint(model));
    if (status == XLSTM_OK)
        status = state_restore_check(&model->pool, file, path);
    if (status != XLSTM_OK)
        return status;
    engine_lock(model);
    status = state_restore(&model->pool, model->stream, session->slot, file, header.position);
    engine_unlock(model);
    session->broken = status != XLSTM_OK;
    if (status != XLSTM_OK)
        return status;
    session->position = header.position;
    session->rewind_floor = header.position;
    if (state_file_ring(&model->pool, file) == model->state.deferred)
        session->rewind_floor = 0;
    return XLSTM_OK;
}

xlstm_status session_load_bytes(xlstm_session *session, const uint8_t *bytes, size_t size,
                                const char *name) {
    stored_tensors file = {0};
    file_map map = {.data = bytes, .size = size};
    xlstm_status status = safetensors_parse(bytes, size, name, &file);
    if (status == XLSTM_OK)
        status = load(session, name, &map, &file);
    stored_close(&file);
    return status;
}

xlstm_status xlstm_session_load(xlstm_session *session, const char *path) {
    file_map map = {0};
    if (!path || !*path)
        return error_set(XLSTM_INVALID_ARGUMENT, "no path to load the state from was given");
    xlstm_status status = file_map_open(path, &map);
    if (status != XLSTM_OK)
        return status;
    status = session_load_bytes(session, map.data, map.size, path);
    file_map_close(&map);
    return status;
}
