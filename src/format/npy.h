/* NumPy's .npy files, versions 1 to 3: C order, little-endian; other orders are a clear error. */
#ifndef FORMAT_NPY_H
#define FORMAT_NPY_H

#include "base/dtype.h"
#include "base/file.h"

enum { NPY_MAX_RANK = 8 };

typedef struct npy_array {
    dtype dtype; /* f8 f4 f2, i8 i4 i2 i1, u8 u4 u2 u1, b1 */
    int rank;
    int64_t shape[NPY_MAX_RANK];
    int64_t count;    /* elements */
    const void *data; /* 64-byte aligned: in the map, or in `copy` where the file is not aligned */
    void *copy;
    file_map map;
} npy_array;

xlstm_status npy_open(const char *path, npy_array *array);
/* As npy_open for a file in memory, which must outlive the array. npy_close is needed too. */
xlstm_status npy_parse(const uint8_t *bytes, size_t size, const char *path, npy_array *array);
void npy_close(npy_array *array);
/* Any integer dtype; values that do not fit int32 are an error that names the index. Released with
 * free. */
xlstm_status npy_to_ids(const npy_array *array, const char *path, int32_t **ids);

/* A file written in pieces, its shape known before; rank <= NPY_MAX_RANK; every dtype but bf16.
 * Commit fails unless exactly the announced bytes were written. */
typedef struct npy_writer {
    file_writer file;
    uint64_t left; /* bytes still to come */
    bool overrun;  /* more came */
} npy_writer;
xlstm_status npy_writer_open(const char *path, dtype type, int rank, const int64_t *shape,
                             npy_writer *writer);
void npy_writer_write(npy_writer *writer, const void *bytes, size_t size);
xlstm_status npy_writer_commit(npy_writer *writer);
void npy_writer_cancel(npy_writer *writer);

#endif
