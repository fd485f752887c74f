/* Files: mapped or read whole, written so that a name never stands for half a file.
 *
 * A writer makes a temporary file in the folder of its target, since a rename is atomic only within
 * one file system. A target that is not a regular file (a pipe, /dev/stdout, /dev/full) cannot be
 * replaced and is written to directly. */
#include "base/file.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens for reading. O_NONBLOCK: a pipe without a writer must not hang the program at open. */
static int open_regular(const char *path, struct stat *status) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) {
        error_system("open", path);
        return -1;
    }
    if (fstat(descriptor, status) != 0)
        error_system("examine", path);
    else if (S_ISDIR(status->st_mode))
        error_set(XLSTM_IO_ERROR, "cannot open %s: it is a folder, not a file", path);
    else if (!S_ISREG(status->st_mode))
        error_set(XLSTM_IO_ERROR, "cannot map %s: it is not a regular file", path);
    else
        return descriptor;
    close(descriptor);
    return -1;
}

xlstm_status file_map_open(const char *path, file_map *map) {
    *map = (file_map){0};
    struct stat status;
    int descriptor = open_regular(path, &status);
    if (descriptor < 0)
        return XLSTM_IO_ERROR;
    xlstm_status result = XLSTM_OK;
    if (status.st_size > 0) {
        size_t size = (size_t)status.st_size;
        void *data = mmap(NULL, size, PROT_READ, MAP_SHARED, descriptor, 0);
        if (data == MAP_FAILED)
            result = error_system("map", path);
        else
            *map = (file_map){.data = data, .size = size};
    }
    close(descriptor);
    return result;
}

void file_map_close(file_map *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (file_map){0};
}

void file_map_forget(const void *data, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)data;
    uintptr_t from = (first + page - 1) / page * page, to = (first + size) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

xlstm_status file_read(const char *path, size_t limit, buffer *out) {
    buffer_clear(out);
    buffer_append(out, "", 0); /* an empty file is an empty string */
    FILE *stream = fopen(path, "rbe");
    if (!stream)
        return error_system("open", path);
    xlstm_status result = XLSTM_OK;
    char block[16384];
    for (;;) {
        errno = 0;
        size_t count = fread(block, 1, sizeof block, stream);
        if (count > limit - out->size) {
            result = error_set(XLSTM_FORMAT_ERROR,
                               "%s is too large: at most %zu bytes are read of such a file", path,
                               limit);
            break;
        }
        buffer_append(out, block, count);
        if (out->failed) {
            result = error_memory(out->size + count, path);
            break;
        }
        if (count == sizeof block)
            continue;
        if (ferror(stream))
            result = error_system("read", path);
        break;
    }
    fclose(stream);
    return result;
}

xlstm_status file_read_regular(const char *path, size_t limit, buffer *out) {
    struct stat facts;
    if (stat(path, &facts) != 0)
        return error_system("open", path);
    if (!S_ISREG(facts.st_mode))
        return error_set(XLSTM_IO_ERROR, "%s is not a regular file", path);
    return file_read(path, limit, out);
}

bool file_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0;
}

bool file_is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool file_is_regular(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

char *path_join(const char *folder, const char *name) {
    size_t folder_size = strlen(folder), name_size = strlen(name);
    bool slash = folder_size > 0 && folder[folder_size - 1] != '/';
    char *path = malloc(folder_size + name_size + 2);
    if (!path) {
        error_memory(folder_size + name_size + 2, "a path");
        return NULL;
    }
    memcpy(path, folder, folder_size);
    if (slash)
        path[folder_size++] = '/';
    memcpy(path + folder_size, name, name_size + 1);
    return path;
}

bool path_ends_in(const char *path, const char *ending) {
    size_t length = strlen(path), size = strlen(ending);
    return length > size && strcasecmp(path + length - size, ending) == 0;
}

char *path_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    size_t size = slash ? (size_t)(slash - path) : 1;
    if (slash == path)
        size = 1; /* "/name" lies in "/" */
    char *folder = malloc(size + 1);
    if (!folder) {
        error_memory(size + 1, "a path");
        return NULL;
    }
    memcpy(folder, slash ? path : ".", size);
    folder[size] = '\0';
    return folder;
}

/* Creates a file of a name that nobody else has, in the folder of writer->path. Its permissions
 * follow the umask, or are those of the file that it will replace (mode 0: there is none). */
static int create_temporary(file_writer *writer, mode_t mode) {
    char *folder = path_folder(writer->path);
    if (!folder)
        return -1;
    int descriptor = -1;
    uint64_t seed = (uint64_t)getpid(), stream = (uint64_t)(clock_seconds() * 1e9);
    for (uint64_t attempt = 0; attempt < 100 && descriptor < 0; attempt++) {
        char name[48];
        snprintf(name, sizeof name, ".xlstm-%016llx.tmp",
                 (unsigned long long)random_bits(seed, stream, attempt));
        writer->temporary = path_join(folder, name);
        if (!writer->temporary)
            break;
        descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0)
            break;
        int number = errno;
        free(writer->temporary);
        writer->temporary = NULL;
        errno = number;
        if (number != EEXIST)
            break;
    }
    if (descriptor < 0)
        error_system("write", writer->path);
    else if (mode)
        (void)fchmod(descriptor, mode & 0777); /* without the right to: those of the umask stay */
    free(folder);
    return descriptor;
}

static void release(file_writer *writer) {
    if (writer->stream)
        fclose(writer->stream);
    if (writer->temporary)
        unlink(writer->temporary);
    free(writer->temporary);
    free(writer->path);
    *writer = (file_writer){0};
}

xlstm_status file_writer_open(const char *path, file_writer *writer) {
    *writer = (file_writer){0};
    struct stat status;
    if (!*path)
        return error_set(XLSTM_INVALID_ARGUMENT, "cannot write a file without a name");
    bool exists = stat(path, &status) == 0;
    if (exists && S_ISDIR(status.st_mode))
        return error_set(XLSTM_IO_ERROR, "cannot write %s: it is a folder, not a file", path);
    bool direct = exists && (!S_ISREG(status.st_mode) || strncmp(path, "/dev/", 5) == 0);
    /* Resolved, so that a link goes on pointing to the file, which is replaced. */
    writer->path = exists && !direct ? realpath(path, NULL) : strdup(path);
    if (!writer->path)
        return exists && !direct ? error_system("write", path)
                                 : error_memory(strlen(path), "a path");
    int descriptor;
    if (direct) {
        descriptor = open(path, O_WRONLY | O_CLOEXEC);
        if (descriptor < 0)
            error_system("write", path);
    } else {
        descriptor = create_temporary(writer, exists ? status.st_mode : 0);
    }
    if (descriptor < 0) {
        release(writer);
        return XLSTM_IO_ERROR;
    }
    writer->stream = fdopen(descriptor, "wb");
    if (!writer->stream) {
        error_system("write", path);
        close(descriptor);
        release(writer);
        return XLSTM_IO_ERROR;
    }
    return XLSTM_OK;
}

static void fail(file_writer *writer) {
    if (writer->status == XLSTM_OK) {
        writer->status = XLSTM_IO_ERROR;
        writer->error_number = errno ? errno : EIO;
    }
}

void file_writer_write(file_writer *writer, const void *bytes, size_t count) {
    if (writer->status != XLSTM_OK || count == 0)
        return;
    errno = 0;
    if (fwrite(bytes, 1, count, writer->stream) != count)
        fail(writer);
}

void file_writer_write_at(file_writer *writer, uint64_t offset, const void *bytes, size_t count) {
    if (writer->status != XLSTM_OK)
        return;
    errno = 0;
    off_t end = ftello(writer->stream);
    if (end < 0 || fseeko(writer->stream, (off_t)offset, SEEK_SET) != 0) {
        fail(writer);
        return;
    }
    file_writer_write(writer, bytes, count);
    if (writer->status == XLSTM_OK && fseeko(writer->stream, end, SEEK_SET) != 0)
        fail(writer);
}

/* Makes the new name itself durable. A file system that cannot do it is no reason to fail. */
static void flush_folder(const char *path) {
    char *folder = path_folder(path);
    if (!folder)
        return;
    int descriptor = open(folder, O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
        fsync(descriptor);
        close(descriptor);
    }
    free(folder);
}

xlstm_status file_writer_commit(file_writer *writer) {
    errno = 0;
    if (writer->status == XLSTM_OK && fflush(writer->stream) != 0)
        fail(writer);
    if (writer->status == XLSTM_OK && writer->temporary && fsync(fileno(writer->stream)) != 0)
        fail(writer);
    if (fclose(writer->stream) != 0)
        fail(writer);
    writer->stream = NULL;
    if (writer->status == XLSTM_OK && writer->temporary) {
        if (rename(writer->temporary, writer->path) == 0) {
            free(writer->temporary);
            writer->temporary = NULL;
            flush_folder(writer->path);
        } else {
            fail(writer);
        }
    }
    xlstm_status status = writer->status;
    if (status != XLSTM_OK) {
        errno = writer->error_number;
        error_system("write", writer->path);
    }
    release(writer);
    return status;
}

void file_writer_cancel(file_writer *writer) {
    release(writer);
}
