/* Blocks at run time, after clang's "Block Implementation Specification": a block on the stack is copied to the heap by
 * _Block_copy, together with the variables marked __block that it shares with its surroundings. Objective-C objects
 * that a block captures are held by its copy, as on Apple's systems (Debian's libBlocksRuntime leaves that out). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"

enum {
    BLOCK_REFERENCES = 0x00fffffe, /* counted by twos */
    BLOCK_ON_HEAP = 1 << 24,
    BLOCK_HAS_HELPERS = 1 << 25,
    BLOCK_GLOBAL = 1 << 28,
};
enum {
    FIELD_OBJECT = 3,
    FIELD_BLOCK = 7,
    FIELD_SHARED = 8,
    FIELD_WEAK = 16,
    FIELD_OF_SHARED = 128
};

struct descriptor {
    unsigned long reserved, size;
    void (*copy)(void *to, const void *from);
    void (*dispose)(const void *block);
};

struct block {
    void *isa;
    int flags, reserved;
    void (*invoke)(void);
    struct descriptor *descriptor;
};

struct shared {
    void *isa;
    struct shared *forwarding;
    int flags;
    unsigned size;
    void (*keep)(void *to, void *from);
    void (*dispose)(void *shared);
};

void *_NSConcreteStackBlock[32], *_NSConcreteGlobalBlock[32];
static void *heap_block[32];

void *_Block_copy(const void *block);
void _Block_release(const void *block);
void _Block_object_assign(void *to, const void *object, const int field);
void _Block_object_dispose(const void *object, const int field);

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

void *_Block_copy(const void *argument) {
    struct block *block = (struct block *)argument;
    if (block == NULL || (block->flags & BLOCK_GLOBAL) != 0) {
        return block;
    }
    if ((block->flags & BLOCK_ON_HEAP) != 0) {
        __atomic_fetch_add(&block->flags, 2, __ATOMIC_SEQ_CST);
        return block;
    }
    struct block *copy = allocate(block->descriptor->size);
    memcpy(copy, block, block->descriptor->size);
    copy->isa = heap_block;
    copy->flags = (copy->flags & ~BLOCK_REFERENCES) | BLOCK_ON_HEAP | 2;
    if ((copy->flags & BLOCK_HAS_HELPERS) != 0) {
        copy->descriptor->copy(copy, block);
    }
    return copy;
}

void _Block_release(const void *argument) {
    struct block *block = (struct block *)argument;
    if (block == NULL || (block->flags & BLOCK_ON_HEAP) == 0) {
        return;
    }
    if ((__atomic_sub_fetch(&block->flags, 2, __ATOMIC_SEQ_CST) & BLOCK_REFERENCES) == 0) {
        if ((block->flags & BLOCK_HAS_HELPERS) != 0) {
            block->descriptor->dispose(block);
        }
        free(block);
    }
}

/* The copy on the heap that all who use a __block variable share. */
static struct shared *share(struct shared *variable) {
    struct shared *at = variable->forwarding;
    if ((at->flags & BLOCK_ON_HEAP) != 0) {
        __atomic_fetch_add(&at->flags, 2, __ATOMIC_SEQ_CST);
        return at;
    }
    struct shared *copy = allocate(variable->size);
    memcpy(copy, variable, variable->size);
    copy->flags = (variable->flags & ~BLOCK_REFERENCES) | BLOCK_ON_HEAP | 4; /* here and there */
    copy->forwarding = copy;
    variable->forwarding = copy;
    if ((variable->flags & BLOCK_HAS_HELPERS) != 0) {
        variable->keep(copy, variable);
    }
    return copy;
}

static void unshare(struct shared *variable) {
    struct shared *at = variable->forwarding;
    if ((at->flags & BLOCK_ON_HEAP) != 0 &&
        (__atomic_sub_fetch(&at->flags, 2, __ATOMIC_SEQ_CST) & BLOCK_REFERENCES) == 0) {
        if ((at->flags & BLOCK_HAS_HELPERS) != 0) {
            at->dispose(at);
        }
        free(at);
    }
}

void _Block_object_assign(void *to, const void *object, const int field) {
    const void **slot = to;
    if ((field & FIELD_OF_SHARED) != 0) { /* __block variables hold nothing without ARC */
        *slot = object;
    } else if ((field & FIELD_SHARED) != 0) {
        *slot = share((struct shared *)object);
    } else if ((field & FIELD_BLOCK) == FIELD_BLOCK) {
        *slot = _Block_copy(object);
    } else {
        device_retain(object);
        *slot = object;
    }
}

void _Block_object_dispose(const void *object, const int field) {
    if ((field & FIELD_OF_SHARED) != 0) {
        return;
    }
    if ((field & FIELD_SHARED) != 0) {
        unshare((struct shared *)object);
    } else if ((field & FIELD_BLOCK) == FIELD_BLOCK) {
        _Block_release(object);
    } else {
        device_release(object);
    }
}
