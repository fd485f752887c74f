/* Which processors this process may use, and threads that stay on one of them. */
#ifndef BASE_PROCESSORS_H
#define BASE_PROCESSORS_H

#include <stdbool.h>

enum { PROCESSORS_MOST = 1024 };

/* The numbers of the processors that the calling thread may run on, at most PROCESSORS_MOST, in
 * ascending order; 0 where the system does not tell. */
int processors_allowed(int *processors);
/* Puts those first that share a core with none before them, then the second of each core, and so
 * on. `folder` is /sys/devices/system/cpu (NULL) or one like it, whose cpuN/topology/
 * thread_siblings_list says who shares a core; a processor it does not describe has its own. */
void processors_spread(const char *folder, int *processors, int count);

/* Ties the calling thread to a processor; false if the system refuses, or cannot. */
bool processor_stay(int processor);
/* Moves the calling thread to a processor and leaves what it is allowed as it was: nothing happens
 * if it is there already, or may not run there. */
void processor_visit(int processor);

#endif
