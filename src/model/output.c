/* Folders to write a checkpoint into, and the space there. */
#include "model/output.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/error.h"
#include "base/file.h"

static bool ends_with(const char *name, const char *ending) {
    size_t length = strlen(name), size = strlen(ending);
    return length >= size && strcmp(name + length - size, ending) == 0;
}

static bool belongs_to_checkpoint(const char *name) {
    return strcmp(name, "config.json") == 0 || strcmp(name, "config.yaml") == 0 ||
           ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json") ||
           path_ends_in(name, ".gguf");
}

xlstm_status output_prepare_folder(const char *folder, bool *created) {
    *created = mkdir(folder, 0777) == 0;
    if (*created)
        return XLSTM_OK;
    if (errno != EEXIST)
        return error_system("create the folder", folder);
    DIR *entries = opendir(folder);
    if (!entries)
        return error_system("open the folder", folder);
    xlstm_status status = XLSTM_OK;
    for (struct dirent *e = readdir(entries); e && status == XLSTM_OK; e = readdir(entries)) {
        if (belongs_to_checkpoint(e->d_name))
            status = error_set(XLSTM_INVALID_ARGUMENT,
                               "%s already holds a checkpoint (%s): give a new or an empty folder",
                               folder, e->d_name);
    }
    closedir(entries);
    return status;
}

xlstm_status output_check_space(const char *folder, int64_t bytes) {
    struct statvfs space;
    if (statvfs(folder, &space) != 0)
        return XLSTM_OK; /* unknown: writing will tell */
    double is_free = (double)space.f_bavail * (double)space.f_frsize;
    if ((double)bytes <= is_free)
        return XLSTM_OK;
    return error_set(XLSTM_IO_ERROR, "the checkpoint has %.2f GB, and %s has %.2f GB free",
                     (double)bytes / 1e9, folder, is_free / 1e9);
}
