/* Inside src/format: several safetensors files being read, with the faults of all of them in one
 * list. */
#ifndef FORMAT_SAFETENSORS_LOAD_H
#define FORMAT_SAFETENSORS_LOAD_H

#include "format/safetensors.h"

typedef struct safetensors_load {
    stored_tensors s;
    error_list faults;
    xlstm_status status; /* of the faults; XLSTM_OUT_OF_MEMORY ends everything */
    bool *readable;      /* [s.file_count]: the names of the file's tensors are known */
    size_t capacity;     /* of s.tensors */
} safetensors_load;

/* The names of types in headers, "F32" … */
/* NULL: safetensors has no such type. */
extern const char *const safetensors_type_names[DTYPE_COUNT];

/* Maps and reads the files, sorts the tensors by name. False when memory is out; a file that cannot
 * be read is a fault in the list. */
bool safetensors_load_files(safetensors_load *load, const char *const *paths, int count);
/* For a fault that the caller has added to the list, of the given status. */
void safetensors_load_fault(safetensors_load *load, xlstm_status status);
/* Hands over the tensors, or releases everything and sets the error. */
xlstm_status safetensors_load_finish(safetensors_load *load, stored_tensors *out);

#endif
