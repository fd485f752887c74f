/* Address spaces. Where types are checked (METAL_DEVICE_TYPES) they are types, and a pointer of one does not convert
 * to that of another; where kernels run they are nothing, except that constant memory is const. */
#ifndef METAL_DEVICE_SPACES_H
#define METAL_DEVICE_SPACES_H

#define kernel
#define thread
#ifdef METAL_DEVICE_TYPES
#define device __attribute__((address_space(1)))
#define constant const __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#else
#define device
#define constant const
#define threadgroup
#endif

#endif
