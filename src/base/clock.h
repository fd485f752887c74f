/* Time that only goes forward, and the memory of this process and machine. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

double clock_seconds(void); /* monotonic */
void clock_sleep(double seconds);
int64_t memory_total(void);     /* bytes of RAM; 0: unknown */
int64_t memory_available(void); /* bytes that can be had without swapping; 0: unknown */

#endif
