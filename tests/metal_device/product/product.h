/* Tests of the library on the Metal test device, through include/xlstm.h. Each runs in a process of its own, as some
 * machine, so that it sees the device opened and, at its end, closed: no object may be left alive. */
#ifndef METAL_DEVICE_PRODUCT_H
#define METAL_DEVICE_PRODUCT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "metal_device/device.h"
#include "xlstm.h"

/* The machine of the environment, but in fast mode where that says nothing of modes. */
metal_device_config product_machine(void);

/* Calls body(context) in a child as this machine (NULL: product_machine()). The running test fails unless the child
 * ends well: nothing that must() was not, no violation, no signal, no hang, nothing alive after exit. */
void product_run(const metal_device_config *machine, void (*body)(void *context), void *context);

/* In a child: ends it with the text unless `holds`. */
#define must(holds, ...)                                                                           \
    do {                                                                                           \
        if (!(holds))                                                                              \
            product_end(__FILE__, __LINE__, #holds, __VA_ARGS__);                                  \
    } while (0)
_Noreturn void product_end(const char *file, int line, const char *what, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* In a child: the status is this one and the thread's message has these words. */
void product_error(xlstm_status status, xlstm_status wanted, const char *words);

/* In a child: calls that must succeed. */
xlstm_model *product_load(const char *path, const xlstm_model_options *options);
xlstm_session *product_session(xlstm_model *model);

/* What the models are loaded with: pieces of 64 tokens, 4 sessions. */
extern const xlstm_model_options product_options;

#endif
