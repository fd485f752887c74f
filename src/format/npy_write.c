/* Writing .npy files in pieces: version 1.0, the header padded with spaces so that the data begins
 * at a multiple of 64 bytes, as NumPy writes them. */
#include "format/npy.h"

#include <string.h>

#include "base/error.h"

/* The type string of NumPy, or NULL: bf16 has none. */
static const char *descr_of(dtype type) {
    switch (type) {
    case DTYPE_F64:
        return "<f8";
    case DTYPE_F32:
        return "<f4";
    case DTYPE_F16:
        return "<f2";
    case DTYPE_I64:
        return "<i8";
    case DTYPE_I32:
        return "<i4";
    case DTYPE_I16:
        return "<i2";
    case DTYPE_I8:
        return "|i1";
    case DTYPE_U64:
        return "<u8";
    case DTYPE_U32:
        return "<u4";
    case DTYPE_U16:
        return "<u2";
    case DTYPE_U8:
        return "|u1";
    case DTYPE_BOOL:
        return "|b1";
    default:
        return NULL;
    }
}

static xlstm_status check_layout(const char *path, dtype type, int rank, const int64_t *shape,
                                 uint64_t *size) {
    if (descr_of(type) == NULL) {
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: .npy has no type for %s", path,
                         dtype_name(type));
    }
    if (rank < 0 || rank > NPY_MAX_RANK) {
        return error_set(XLSTM_INVALID_ARGUMENT, "%s: %d dimensions; at most %d can be written",
                         path, rank, NPY_MAX_RANK);
    }
    *size = dtype_size(type);
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(*size, shape[i], size)) {
            return error_set(XLSTM_INVALID_ARGUMENT,
                             "%s: dimension %d, %lld, is negative or too large", path, i,
                             (long long)shape[i]);
        }
    }
    return XLSTM_OK;
}

xlstm_status npy_writer_open(const char *path, dtype type, int rank, const int64_t *shape,
                             npy_writer *writer) {
    memset(writer, 0, sizeof *writer);
    xlstm_status status = check_layout(path, type, rank, shape, &writer->left);
    if (status != XLSTM_OK)
        return status;
    buffer header = {0};
    buffer_append(&header, "\x93NUMPY\x01\x00\x00\x00", 10);
    buffer_print(&header, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr_of(type));
    for (int i = 0; i < rank; i++)
        buffer_print(&header, i == 0 ? "%lld" : ", %lld", (long long)shape[i]);
    buffer_print(&header, rank == 1 ? ",), }" : "), }");
    while (!header.failed && (header.size + 1) % 64 != 0)
        buffer_append(&header, " ", 1);
    buffer_append(&header, "\n", 1);
    if (header.failed) {
        buffer_free(&header);
        return error_memory(64, path);
    }
    header.data[8] = (char)((header.size - 10) & 255);
    header.data[9] = (char)((header.size - 10) >> 8);
    status = file_writer_open(path, &writer->file);
    if (status == XLSTM_OK)
        file_writer_write(&writer->file, header.data, header.size);
    buffer_free(&header);
    return status;
}

void npy_writer_write(npy_writer *writer, const void *bytes, size_t size) {
    if (size > writer->left) {
        writer->overrun = true;
        return;
    }
    writer->left -= size;
    file_writer_write(&writer->file, bytes, size);
}

xlstm_status npy_writer_commit(npy_writer *writer) {
    if (writer->left != 0 || writer->overrun) {
        xlstm_status status =
            error_set(XLSTM_INVALID_ARGUMENT, "%s: %s data was written than its shape says",
                      writer->file.path, writer->overrun ? "more" : "less");
        npy_writer_cancel(writer);
        return status;
    }
    return file_writer_commit(&writer->file);
}

void npy_writer_cancel(npy_writer *writer) {
    file_writer_cancel(&writer->file);
}
