/* Data objects of libdispatch, as far as newLibraryWithData: needs them; implemented by device.m. */
#ifndef METAL_DEVICE_DISPATCH_H
#define METAL_DEVICE_DISPATCH_H

#include <stddef.h>

typedef void (^dispatch_block_t)(void);
typedef id dispatch_queue_t;
typedef id dispatch_data_t;

/* The bytes are copied at once; with a block of the caller they are used in place, until it is called. */
#define DISPATCH_DATA_DESTRUCTOR_DEFAULT ((dispatch_block_t)0)

dispatch_data_t dispatch_data_create(const void *buffer, size_t size, dispatch_queue_t queue,
                                     dispatch_block_t destructor);
void dispatch_release(dispatch_data_t object);

#endif
