/* The tensors of a checkpoint as they lie in mapped files, and the layout of files to be written:
 * the same for safetensors and GGUF. */
#ifndef FORMAT_STORED_H
#define FORMAT_STORED_H

#include "base/dtype.h"
#include "base/file.h"

enum { STORED_MAX_RANK = 8 };

typedef struct stored_tensor {
    char *name;
    dtype dtype;
    int rank;                       /* 0: a scalar */
    int64_t shape[STORED_MAX_RANK]; /* row-major: the last dimension is contiguous */
    const uint8_t *data;            /* in the mapped file; may be misaligned for the dtype */
    size_t size;                    /* bytes; what shape and dtype ask for */
    int file;                       /* index into stored_tensors.files */
} stored_tensor;

/* The tensors of one file or of all shards of a folder, sorted by name. */
typedef struct stored_tensors {
    stored_tensor *tensors;
    size_t count;
    file_map *maps;
    char **files; /* paths */
    int file_count;
} stored_tensors;

void stored_close(stored_tensors *s);
const stored_tensor *stored_find(const stored_tensors *s, const char *name); /* NULL: absent */

/* One tensor of a file to be written. */
typedef struct stored_entry {
    const char *name;
    dtype dtype;
    int rank;
    int64_t shape[STORED_MAX_RANK];
} stored_entry;

#endif
