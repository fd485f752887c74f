/* The GPU of the Metal test device: a thread that executes committed command buffers, those of a queue in their order.
 * It begins as late as possible, when somebody waits, looks at a status or has a handler, so that a host that reads
 * results or reuses memory too early is found out every time and not by chance. */
#import "commands.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

NSErrorDomain const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";

static pthread_mutex_t lock;
static pthread_cond_t changed;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_t worker;
static DeviceCommandBuffer *committed,
    *last; /* those that are not done, in the order of commit; each held */

static uint64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + 1;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* With the lock held; false: so long passed. */
static bool wait_for_change(uint64_t until) {
    struct timespec at = {.tv_sec = (time_t)(until / 1000),
                          .tv_nsec = (long)(until % 1000) * 1000000};
    return pthread_cond_timedwait(&changed, &lock, &at) == 0;
}

/* ---- Commands --------------------------------------------------------------------------------- */

void device_free_command(struct command *command) {
    if (command->kind == COMMAND_DISPATCH) {
        for (int i = 0; i < GPU_BUFFERS; i++) {
            if (command->dispatch.memory[i] != NULL) {
                device_memory_drop(command->dispatch.memory[i]);
            }
        }
        free(command->dispatch.bytes);
    } else if (command->kind == COMMAND_COPY || command->kind == COMMAND_FILL) {
        if (command->blit.from != NULL) {
            device_memory_drop(command->blit.from);
        }
        device_memory_drop(command->blit.to);
    }
}

static bool is_alive(const device_memory *memory, const char *what, char *error, size_t size) {
    if (memory != NULL && memory->dead) {
        snprintf(error, size, "%s uses buffer %s, which was released before it ran", what,
                 memory->label);
        return false;
    }
    return true;
}

static bool dispatch(const struct command *command, char *error, size_t size) {
    for (int i = 0; i < GPU_BUFFERS; i++) {
        if (!is_alive(command->dispatch.memory[i], command->dispatch.name, error, size)) {
            return false;
        }
    }
    gpu_traffic traffic = {0, 0};
    device_gpu_lock();
    bool good = gpu_run(device_gpu(NULL), &command->dispatch.launch, &traffic, error, size);
    device_gpu_unlock();
    device_count(&device_counts.dispatches, 1);
    device_count(&device_counts.read, traffic.read);
    device_count(&device_counts.written, traffic.written);
    device_tell(command->dispatch.name, traffic.read, traffic.written);
    if (device_config.trace) {
        const gpu_launch *l = &command->dispatch.launch;
        fprintf(stderr, "metal: %-40s %u x %u x %u of %u x %u x %u, read %llu, wrote %llu%s%s\n",
                command->dispatch.name, l->groups[0], l->groups[1], l->groups[2], l->threads[0],
                l->threads[1], l->threads[2], (unsigned long long)traffic.read,
                (unsigned long long)traffic.written, good ? "" : ": ", good ? "" : error);
    }
    return good;
}

static bool blit(const struct command *command, char *error, size_t size) {
    const char *what = command->kind == COMMAND_COPY ? "copyFromBuffer:" : "fillBuffer:";
    if (!is_alive(command->blit.from, what, error, size) ||
        !is_alive(command->blit.to, what, error, size)) {
        return false;
    }
    char *to = (char *)command->blit.to->base + command->blit.to_offset;
    if (command->kind == COMMAND_COPY) {
        memcpy(to, (const char *)command->blit.from->base + command->blit.from_offset,
               command->blit.size);
        device_count(&device_counts.read, command->blit.size);
    } else {
        memset(to, command->blit.value, command->blit.size);
    }
    device_count(&device_counts.written, command->blit.size);
    device_count(&device_counts.blits, 1);
    return true;
}

static void fence(const struct command *command) {
    device_gpu_lock();
    gpu *processor = device_gpu(NULL);
    if (processor != NULL) {
        gpu_fence(processor);
    }
    device_gpu_unlock();
    device_count(&device_counts.barriers, command->counted);
    if (command->counted) {
        device_tell(NULL, 0, 0);
    }
    if (device_config.trace && command->counted) {
        fprintf(stderr, "metal: barrier\n");
    }
}

/* ---- Command buffers -------------------------------------------------------------------------- */

static void fail(DeviceCommandBuffer *commands, NSInteger code, const char *text) {
    NSError *error = device_error(MTLCommandBufferErrorDomain, code, "%s", text);
    pthread_mutex_lock(&lock);
    commands->failure = [error retain];
    pthread_mutex_unlock(&lock);
}

/* What a test wants to go wrong, decided when the commands begin. */
static void decide_faults(DeviceCommandBuffer *commands) {
    long code = 0;
    commands->fail_at = commands->count;
    if (device_fails(METAL_FAULT_LOST, NULL)) {
        commands->failing = true;
        commands->fail_at = 0;
        commands->fail_code = MTLCommandBufferErrorDeviceRemoved;
    } else if (device_fails(METAL_FAULT_COMMANDS, &code)) {
        commands->failing = true;
        commands->fail_at = commands->count / 2;
        commands->fail_code = code != 0 ? code : MTLCommandBufferErrorInternal;
    }
}

static const char *meaning(NSInteger code) {
    switch (code) {
    case MTLCommandBufferErrorTimeout:
        return "Caused GPU Timeout Error (injected)";
    case MTLCommandBufferErrorPageFault:
        return "Caused GPU Address Fault Error (injected)";
    case MTLCommandBufferErrorAccessRevoked:
        return "Ignored (for causing prior/excessive GPU errors) (injected)";
    case MTLCommandBufferErrorNotPermitted:
        return "Insufficient Permission (injected)";
    case MTLCommandBufferErrorOutOfMemory:
        return "Insufficient Memory (injected)";
    case MTLCommandBufferErrorDeviceRemoved:
        return "The GPU was removed (injected)";
    default:
        return "Internal Error (injected)";
    }
}

static bool has_come(const struct command *await) {
    return await->event.event->value >= await->event.value;
}

/* Executes up to the end, a failure, or an event that has not come: false. Without the lock. */
static bool execute(DeviceCommandBuffer *commands) {
    char error[1024] = "";
    if (commands->doom[0] != '\0') {
        fail(commands, MTLCommandBufferErrorInvalidResource, commands->doom);
        return true;
    }
    for (; commands->at < commands->count; commands->at++) {
        const struct command *command = &commands->commands[commands->at];
        if (commands->failing && commands->at >= commands->fail_at) {
            break;
        }
        bool good = true;
        switch (command->kind) {
        case COMMAND_DISPATCH:
            good = dispatch(command, error, sizeof error);
            break;
        case COMMAND_FENCE:
            fence(command);
            break;
        case COMMAND_COPY:
        case COMMAND_FILL:
            good = blit(command, error, sizeof error);
            break;
        case COMMAND_SIGNAL:
            device_set_event(command->event.event, command->event.value);
            break;
        case COMMAND_AWAIT:
            pthread_mutex_lock(&lock);
            bool came = has_come(command);
            pthread_mutex_unlock(&lock);
            if (!came) {
                return false;
            }
            break;
        }
        if (!good) {
            fence(&(struct command){.kind = COMMAND_FENCE});
            fail(commands, MTLCommandBufferErrorInternal, error);
            return true;
        }
    }
    if (commands->failing) {
        fail(commands, commands->fail_code, meaning(commands->fail_code));
    }
    return true;
}

static void call_handlers(DeviceCommandBuffer *commands, int kind) {
    for (size_t i = 0; i < commands->handlerCount[kind]; i++) {
        commands->handlers[kind][i](commands);
    }
}

/* What the commands held is gone before anybody who waits goes on. With the lock, let go of for handlers. */
static void finish(DeviceCommandBuffer *commands) {
    commands->ended = seconds();
    commands->state =
        commands->failure != nil ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    device_count(&device_counts.failed, commands->failure != nil);
    pthread_mutex_unlock(&lock);
    @autoreleasepool {
        call_handlers(commands, 1);
        [commands letGo];
    }
    pthread_mutex_lock(&lock);
    DeviceCommandBuffer **link = &committed, *previous = nil;
    while (*link != commands) {
        previous = *link;
        link = &previous->next;
    }
    *link = commands->next;
    last = last == commands ? previous : last;
    commands->done = true;
    commands->queue->unfinished--;
    pthread_cond_broadcast(&changed);
    [commands release];
}

/* ---- The thread ------------------------------------------------------------------------------- */

static void want_all(void) {
    for (DeviceCommandBuffer *c = committed; c != nil; c = c->next) {
        c->wanted = true;
    }
    pthread_cond_broadcast(&changed);
}

static bool may_run(const DeviceCommandBuffer *commands) {
    for (const DeviceCommandBuffer *c = committed; c != commands; c = c->next) {
        if (c->queue == commands->queue) {
            return false;
        }
    }
    return commands->wanted;
}

/* The next that is not blocked; else nil, and *blocked is one that waits for an event. */
static DeviceCommandBuffer *choose(DeviceCommandBuffer **blocked) {
    *blocked = nil;
    for (DeviceCommandBuffer *c = committed; c != nil; c = c->next) {
        if (may_run(c)) {
            if (c->blocked_since == 0 || has_come(&c->commands[c->at])) {
                return c;
            }
            *blocked =
                *blocked == nil || c->blocked_since < (*blocked)->blocked_since ? c : *blocked;
        }
    }
    return nil;
}

static void give_up(DeviceCommandBuffer *commands) {
    const struct command *command = &commands->commands[commands->at];
    pthread_mutex_unlock(&lock);
    @autoreleasepool {
        char text[256];
        snprintf(text, sizeof text,
                 "it waits for value %llu of event %s, which has %llu and which nobody signals",
                 (unsigned long long)command->event.value, device_name(command->event.event),
                 (unsigned long long)command->event.event->value);
        device_violation("command buffer %s: %s", device_name(commands), text);
        fail(commands, MTLCommandBufferErrorTimeout, text);
    }
    pthread_mutex_lock(&lock);
    finish(commands);
}

static void run(DeviceCommandBuffer *commands) {
    bool begins = commands->state == MTLCommandBufferStatusCommitted;
    commands->state = MTLCommandBufferStatusScheduled;
    commands->blocked_since = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    bool through;
    @autoreleasepool {
        if (begins) {
            commands->began = seconds();
            call_handlers(commands, 0);
            decide_faults(commands);
        }
        through = execute(commands);
    }
    pthread_mutex_lock(&lock);
    if (through) {
        finish(commands);
    } else {
        commands->blocked_since = milliseconds();
    }
}

static void *run_gpu(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        DeviceCommandBuffer *blocked;
        DeviceCommandBuffer *commands = choose(&blocked);
        if (commands != nil) {
            run(commands);
        } else if (blocked == nil) {
            pthread_cond_wait(&changed, &lock);
        } else if (milliseconds() >= blocked->blocked_since + device_config.patience) {
            give_up(blocked);
        } else {
            want_all(); /* one of those may signal */
            if (choose(&blocked) == nil) {
                (void)wait_for_change(blocked->blocked_since + device_config.patience);
            }
        }
    }
    return NULL;
}

static void start(void) {
    pthread_mutexattr_t recursive; /* the last release of commands may lead back here */
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &recursive);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attributes);
    if (pthread_create(&worker, NULL, run_gpu, NULL) != 0) {
        abort();
    }
    pthread_detach(worker);
}

void device_start(void) {
    pthread_once(&once, start);
}

/* ---- What hosts ask for ----------------------------------------------------------------------- */

void device_commit(DeviceCommandBuffer *commands) {
    [commands retain];
    pthread_mutex_lock(&lock);
    commands->state = MTLCommandBufferStatusCommitted;
    if (last == nil) {
        committed = commands;
    } else {
        last->next = commands;
    }
    last = commands;
    if (commands->handlerCount[0] + commands->handlerCount[1] > 0) { /* nobody else may wait */
        want_all();
    }
    pthread_mutex_unlock(&lock);
}

/* All before it as well, in whatever queue. */
static void want(const DeviceCommandBuffer *commands) {
    bool before = !commands->done;
    for (DeviceCommandBuffer *c = committed; before && c != nil; c = c->next) {
        c->wanted = true;
        before = c != commands;
    }
    pthread_cond_broadcast(&changed);
}

void device_wait_for(DeviceCommandBuffer *commands, bool scheduled) {
    device_count(&device_counts.waits, 1);
    pthread_mutex_lock(&lock);
    if (!commands->done && pthread_equal(pthread_self(), worker)) {
        pthread_mutex_unlock(&lock);
        device_violation(
            "command buffer %s: its own handler, or that of one before it, waits for it",
            device_name(commands));
        return;
    }
    want(commands);
    while (!commands->done && !(scheduled && commands->state >= MTLCommandBufferStatusScheduled)) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

MTLCommandBufferStatus device_status(DeviceCommandBuffer *commands) {
    pthread_mutex_lock(&lock);
    MTLCommandBufferStatus state = commands->state;
    if (state == MTLCommandBufferStatusCommitted) { /* whoever polls wants it to end */
        want(commands);
    }
    pthread_mutex_unlock(&lock);
    return state;
}

NSError *device_failure(DeviceCommandBuffer *commands) {
    pthread_mutex_lock(&lock);
    NSError *error = commands->failure;
    pthread_mutex_unlock(&lock);
    return error;
}

bool device_reserve(DeviceQueue *queue) {
    pthread_mutex_lock(&lock);
    bool possible = true;
    while (possible && queue->unfinished >= queue->most) {
        possible = false;
        for (const DeviceCommandBuffer *c = committed; c != nil; c = c->next) {
            possible = possible || c->queue == queue;
        }
        if (possible) {
            want_all();
            pthread_cond_wait(&changed, &lock);
        }
    }
    queue->unfinished += possible;
    pthread_mutex_unlock(&lock);
    return possible;
}

void device_unreserve(DeviceQueue *queue) {
    pthread_mutex_lock(&lock);
    queue->unfinished--;
    pthread_mutex_unlock(&lock);
}

/* ---- Events ----------------------------------------------------------------------------------- */

uint64_t device_event_value(DeviceEvent *event) {
    pthread_mutex_lock(&lock);
    want_all();
    uint64_t value = event->value;
    pthread_mutex_unlock(&lock);
    return value;
}

void device_set_event(DeviceEvent *event, uint64_t value) {
    pthread_mutex_lock(&lock);
    uint64_t before = event->value;
    event->value = value > before ? value : before;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (value < before) {
        device_violation("event %s is set from %llu back to %llu", device_name(event),
                         (unsigned long long)before, (unsigned long long)value);
    }
}

bool device_wait_for_event(DeviceEvent *event, uint64_t value, uint64_t at_most) {
    device_count(&device_counts.waits, 1);
    uint64_t now = milliseconds();
    uint64_t until = at_most > UINT64_MAX / 4 - now ? UINT64_MAX / 4 : now + at_most;
    pthread_mutex_lock(&lock);
    want_all();
    while (event->value < value && milliseconds() < until) {
        (void)wait_for_change(until);
    }
    bool came = event->value >= value;
    pthread_mutex_unlock(&lock);
    return came;
}
