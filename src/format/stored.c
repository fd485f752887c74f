/* Looking up and releasing the tensors of a checkpoint, whatever files they came from. */
#include "format/stored.h"

#include <stdlib.h>
#include <string.h>

void stored_close(stored_tensors *s) {
    for (size_t i = 0; i < s->count; i++)
        free(s->tensors[i].name);
    for (int i = 0; i < s->file_count; i++) {
        file_map_close(&s->maps[i]);
        free(s->files[i]);
    }
    free(s->tensors);
    free(s->maps);
    free(s->files);
    memset(s, 0, sizeof *s);
}

const stored_tensor *stored_find(const stored_tensors *s, const char *name) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, s->tensors[middle].name);
        if (order == 0)
            return &s->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
