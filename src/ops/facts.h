/* What a device tells of itself through its entry `facts`: the hardware, and what will be used of it. */
#ifndef OPS_FACTS_H
#define OPS_FACTS_H

#include "ops/ops.h"

enum { OPS_MAX_FACTS = 24 };

enum ops_fact_kind { OPS_FACT_TEXT, OPS_FACT_NUMBER, OPS_FACT_BYTES, OPS_FACT_FLAG };

struct ops_fact {
    const char *name;
    enum ops_fact_kind kind;
    int64_t number; /* of all but texts */
    char text[512];
};

#endif
