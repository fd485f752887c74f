/* Copies of blocks (blocks.c), as in the header of this name on Apple's systems. */
#ifndef METAL_DEVICE_BLOCK_H
#define METAL_DEVICE_BLOCK_H

extern void *_Block_copy(const void *block);
extern void _Block_release(const void *block);

#define Block_copy(...) ((__typeof(__VA_ARGS__))_Block_copy((const void *)(__VA_ARGS__)))
#define Block_release(...) _Block_release((const void *)(__VA_ARGS__))

#endif
