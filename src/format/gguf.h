/* GGUF: one file with metadata (named values) and tensors. docs/GGUF.md describes the format and
 * what an xLSTM model's file holds.
 *
 *   "GGUF", version u32, tensor count u64, value count u64
 *   values:  key, type u32, value          (a string: length u64 and bytes; an array: element
 *                                           type u32, count u64 and elements)
 *   tensors: name, rank u32, dimensions u64, the contiguous one first; type u32; offset u64
 *   data, which begins, as every tensor does, at a multiple of general.alignment (32)
 *
 * Little-endian, versions 2 and 3. */
#ifndef FORMAT_GGUF_H
#define FORMAT_GGUF_H

#include "base/buffer.h"
#include "base/error.h"
#include "format/stored.h"

enum {
    GGUF_ALIGNMENT = 32, /* of files written here, and where a file does not say */
    GGUF_NAME_MAX = 63,  /* bytes of a tensor's name */
    GGUF_MAX_RANK = 4
};

typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL, /* a byte, 0 or 1 */
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
} gguf_type;

/* Bytes, not NUL-terminated. */
typedef struct gguf_text {
    const char *bytes;
    size_t size;
} gguf_text;

/* ---- Reading ---- */

/* One value, in the mapped file. */
typedef struct gguf_value {
    gguf_text key;
    gguf_type type;
    gguf_type element;   /* of an array */
    uint64_t count;      /* of an array; else 1 */
    const uint8_t *data; /* the first element; may be misaligned */
    size_t size;         /* bytes of all elements */
} gguf_value;

typedef struct gguf_file {
    stored_tensors tensors; /* sorted by name */
    gguf_value *values;     /* [value_count], in the order of the file */
    size_t value_count;
    uint32_t version;
    uint64_t alignment;
} gguf_file;

/* Maps the file; everything is checked before it is used. The first fault of the metadata, else
 * every fault of the tensors, is reported, a line each. */
xlstm_status gguf_open(const char *path, gguf_file *file);
/* A file in memory (not copied, not owned), which must outlive `file`. */
xlstm_status gguf_parse(const uint8_t *bytes, size_t size, const char *path, gguf_file *file);
void gguf_close(gguf_file *file);

const gguf_value *gguf_find(const gguf_file *file, const char *key); /* NULL: absent */
/* False where the value is NULL or of another kind, or does not fit. */
bool gguf_get_text(const gguf_value *value, gguf_text *text);
bool gguf_get_integer(const gguf_value *value, int64_t *integer);

/* ---- Metadata to be written ---- */

/* Starts as {0}. A failed allocation or a wrong value sticks and comes out of gguf_writer_open. */
typedef struct gguf_metadata {
    buffer bytes;
    buffer keys; /* each ended by NUL */
    uint64_t count;
    const char *fault; /* what was wrong with a value; static text */
} gguf_metadata;

/* A scalar: not text, not an array. `value` points to a value of the C type that `type` names
 * (GGUF_BOOL: bool). */
void gguf_put(gguf_metadata *m, const char *key, gguf_type type, const void *value);
void gguf_put_u32(gguf_metadata *m, const char *key, uint32_t value);
void gguf_put_f32(gguf_metadata *m, const char *key, float value);
void gguf_put_bool(gguf_metadata *m, const char *key, bool value);
void gguf_put_text(gguf_metadata *m, const char *key, const char *bytes, size_t size);
/* Arrays of scalars, and of texts. */
void gguf_put_array(gguf_metadata *m, const char *key, gguf_type element, const void *values,
                    size_t count);
void gguf_put_texts(gguf_metadata *m, const char *key, const gguf_text *texts, size_t count);
void gguf_metadata_free(gguf_metadata *m);

/* ---- Writing ---- */

/* The layout is known before the data, so that checkpoints larger than memory can be streamed.
 * Types: f64, f32, f16, bf16, signed integers and blocks; rank up to GGUF_MAX_RANK; rows of blocks
 * are whole blocks; names up to GGUF_NAME_MAX bytes. The file appears under its name when it is
 * committed. general.alignment is written by the writer: it must not be in the metadata. */
typedef struct gguf_writer gguf_writer;
xlstm_status gguf_writer_open(const char *path, const gguf_metadata *metadata,
                              const stored_entry *entries, size_t count, gguf_writer **writer);
/* The next bytes of the tensors' data, one tensor after the other as if nothing lay between them;
 * the writer pads. */
void gguf_writer_write(gguf_writer *writer, const void *bytes, size_t size);
/* Fails unless exactly the announced bytes were written; frees the writer either way. */
xlstm_status gguf_writer_commit(gguf_writer *writer);
void gguf_writer_cancel(gguf_writer *writer); /* may be NULL */

/* general.file_type: what most of a file's weights are stored in. */
uint32_t gguf_file_type(dtype type);                /* of f32, f16, bf16 and blocks */
const char *gguf_file_type_name(int64_t file_type); /* "bf16", "q8_0" …; NULL: unknown */

#endif
