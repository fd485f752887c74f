/* The parts of `xlstm info`: what stands in info.c is of the model, what stands in info_device.c of the machine. */
#ifndef CLI_INFO_H
#define CLI_INFO_H

#include <jansson.h>

#include "base/buffer.h"
#include "cli/options.h"
#include "ops/ops.h"

/* A line of a section: a name and its value. */
void info_print_value(const char *name, const json_t *value, buffer *out);
void info_print_bytes(const char *name, int64_t bytes, buffer *out);

/* The devices of this build and what each computes in: a text each, by name; *device_facts of one of them, null where it
 * has none beside that text. Fails where that device cannot be used. */
json_t *info_devices(void);
xlstm_status info_device_facts(ops_device *device, ops_profile profile, json_t **device_facts);
/* Both in words. */
xlstm_status info_print_devices(ops_device *device, ops_profile profile, buffer *out);

/* Without a model: the devices, and the facts of the one that the options name. Prints errors; the exit status. */
int info_machine(const options *o);

#endif
