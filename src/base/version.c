/* What this library is. The Makefile passes the strings to this file alone, so that a new commit
 * compiles nothing else again. */
#include "xlstm.h"

const char *xlstm_version(void) {
    return XLSTM_VERSION;
}

const char *xlstm_build(void) {
    return XLSTM_VERSION " (commit " XLSTM_COMMIT ", devices: " XLSTM_DEVICES
                         "; kernels: " XLSTM_KERNELS ")";
}
