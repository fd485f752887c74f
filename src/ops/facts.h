/* What a device tells of itself through its entry `facts`: the hardware, and what will be used of it. */
#ifndef OPS_FACTS_H
#define OPS_FACTS_H

#include "ops/ops.h"

enum { OPS_MAX_FACTS = 24 };

enum ops_fact_kind { OPS_FACT_TEXT, OPS_FACT_NUMBER, OPS_FACT_BYTES, OPS_FACT_FLAG };

/* What a device can do, sampled within its memory by its entry `limit`: bytes or operations a second. */
enum ops_limit {
    OPS_LIMIT_READ,
    OPS_LIMIT_UPDATE, /* read-modify-write: bytes read plus bytes written */
    OPS_LIMIT_PRODUCT /* dense products of bf16, two operations a multiply-add */
};

struct ops_fact {
    const char *name;
    enum ops_fact_kind kind;
    int64_t number; /* of all but texts */
    char text[512];
};

#endif
