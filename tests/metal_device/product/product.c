#include "product.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 100 /* seconds until a child counts as hanging */ };

const xlstm_model_options product_options = {
    .device = "metal", .threads = 1, .max_sessions = 4, .max_batch_tokens = 64};

metal_device_config product_machine(void) {
    metal_device_config machine = metal_device_default();
    if (!getenv("XLSTM_METAL_TEST_MODE"))
        machine.mode = GPU_FAST;
    return machine;
}

_Noreturn void product_end(const char *file, int line, const char *what, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: not true: %s: ", file, line, what);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    _exit(1);
}

/* Registered before the library is used, so that it runs after what that has registered. */
static void must_be_gone(void) {
    if (metal_device_live_objects() > 0)
        metal_device_print_live(stderr);
    must(metal_device_live_objects() == 0, "%llu objects live at the end of the process",
         (unsigned long long)metal_device_live_objects());
    must(metal_device_live_bytes() == 0, "%llu bytes of buffers at the end of the process",
         (unsigned long long)metal_device_live_bytes());
}

void product_run(const metal_device_config *machine, void (*body)(void *context), void *context) {
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS}; /* by cmocka */
    metal_device_config configured = machine ? *machine : product_machine();
    fflush(stdout);
    pid_t child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        for (size_t i = 0; i < sizeof caught / sizeof *caught; i++)
            signal(caught[i], SIG_DFL);
        alarm(PATIENCE);
        if (atexit(must_be_gone) != 0)
            _exit(1);
        metal_device_configure(&configured);
        body(context);
        exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status))
        fail_msg("the process ended by signal %d", WTERMSIG(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

void product_error(xlstm_status status, xlstm_status wanted, const char *words) {
    must(status == wanted, "status %d, not %d: %s", status, wanted, xlstm_last_error());
    must(strstr(xlstm_last_error(), words), "no \"%s\" in \"%s\"", words, xlstm_last_error());
}

xlstm_model *product_load(const char *path, const xlstm_model_options *options) {
    xlstm_model *model;
    must(xlstm_model_load(path, options, &model) == XLSTM_OK, "%s", xlstm_last_error());
    return model;
}

xlstm_session *product_session(xlstm_model *model) {
    xlstm_session *session;
    must(xlstm_session_create(model, &session) == XLSTM_OK, "%s", xlstm_last_error());
    return session;
}
