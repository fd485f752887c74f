/* Files: mapped for reading, replaced whole when written. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/buffer.h"
#include "xlstm.h"

/* A file mapped read-only. An empty file has data NULL and size 0. */
typedef struct file_map {
    const uint8_t *data;
    size_t size;
} file_map;

xlstm_status file_map_open(const char *path, file_map *map); /* errors name the path */
void file_map_close(file_map *map);
/* A span of a mapped file that was read and will not be soon again: the process gives back its
 * pages. It stays readable. */
void file_map_forget(const void *data, size_t size);

/* The whole file as a string; at most `limit` bytes, more is an error. Reads pipes too. */
xlstm_status file_read(const char *path, size_t limit, buffer *out);
/* The same for a file that belongs to a model: a pipe or device in its place is an error, not a
 * wait. */
xlstm_status file_read_regular(const char *path, size_t limit, buffer *out);

bool file_exists(const char *path);
bool file_is_folder(const char *path);
bool file_is_regular(const char *path);
/* "folder/name"; released with free. NULL when memory is out (the error is set). */
char *path_join(const char *folder, const char *name);
/* Whether a path ends so, in small letters or capitals: "MODEL.GGUF" in ".gguf". */
bool path_ends_in(const char *path, const char *ending);
/* The part of `path` before the last slash, or "."; released with free. */
char *path_folder(const char *path);

/* A file that appears under its name only when complete: written under a temporary name in the same
 * folder, flushed to disk and renamed by file_writer_commit; file_writer_cancel removes it. Errors
 * stick and come out of commit. */
typedef struct file_writer {
    void *stream; /* FILE * */
    char *path, *temporary;
    xlstm_status status;
    int error_number;
} file_writer;

xlstm_status file_writer_open(const char *path, file_writer *writer);
void file_writer_write(file_writer *writer, const void *bytes, size_t count);
/* Overwrites bytes already written (a checksum in a header). */
void file_writer_write_at(file_writer *writer, uint64_t offset, const void *bytes, size_t count);
xlstm_status file_writer_commit(file_writer *writer);
void file_writer_cancel(file_writer *writer);

#endif
