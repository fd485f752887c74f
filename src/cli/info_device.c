/* xlstm info: the devices of this build, and the facts of the chosen one. */
#include "cli/info.h"

#include <string.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "ops/facts.h"

/* ---- Facts ---- */

json_t *info_devices(void) {
    json_t *devices = json_object();
    ops_device *device;
    for (int i = 0; (device = ops_device_at(i)) != NULL; i++) {
        char text[512] = "";
        device->describe(device, text, sizeof text);
        json_object_set_new(devices, device->name, json_string(text));
    }
    return devices;
}

static json_t *fact_value(const ops_fact *fact) {
    if (fact->kind == OPS_FACT_TEXT)
        return json_string(fact->text);
    return fact->kind == OPS_FACT_FLAG ? json_boolean(fact->number) : json_integer(fact->number);
}

static xlstm_status take_facts(ops_device *device, ops_profile profile, ops_fact *facts,
                               int *count) {
    *count = 0;
    return device->facts ? device->facts(device, profile, facts, count) : XLSTM_OK;
}

xlstm_status info_device_facts(ops_device *device, ops_profile profile, json_t **device_facts) {
    ops_fact facts[OPS_MAX_FACTS];
    int count;
    *device_facts = NULL;
    xlstm_status status = take_facts(device, profile, facts, &count);
    if (status != XLSTM_OK)
        return status;
    *device_facts = device->facts ? json_object() : json_null();
    for (int i = 0; i < count; i++)
        json_object_set_new(*device_facts, facts[i].name, fact_value(&facts[i]));
    return XLSTM_OK;
}

/* ---- Words ---- */

static void print_lines(const char *name, const char *text, buffer *out) {
    for (const char *line = text; *line; name = "") {
        int length = (int)strcspn(line, "\n");
        buffer_print(out, "  %-14s%.*s\n", name, length, line);
        line += length + (line[length] == '\n');
    }
}

static void print_fact(const ops_fact *fact, buffer *out) {
    if (fact->kind == OPS_FACT_BYTES) {
        info_print_bytes(fact->name, fact->number, out);
        return;
    }
    json_t *value = fact_value(fact);
    info_print_value(fact->name, value, out);
    json_decref(value);
}

xlstm_status info_print_devices(ops_device *device, ops_profile profile, buffer *out) {
    const char *name;
    json_t *value, *devices = info_devices();
    buffer_print(out, "Devices of this build\n");
    json_object_foreach(devices, name, value) {
        print_lines(name, json_string_value(value), out);
    }
    json_decref(devices);
    ops_fact facts[OPS_MAX_FACTS];
    int count = 0;
    xlstm_status status = device ? take_facts(device, profile, facts, &count) : XLSTM_OK;
    if (count > 0)
        buffer_print(out, "\nDevice %s\n", device->name);
    for (int i = 0; i < count; i++)
        print_fact(&facts[i], out);
    return status;
}

/* ---- Without a model ---- */

static xlstm_status print_machine(ops_device *device, ops_profile profile, bool as_json) {
    xlstm_status status;
    if (!as_json) {
        buffer text = {0};
        status = info_print_devices(device, profile, &text);
        if (status == XLSTM_OK)
            return output_buffer(&text);
        buffer_free(&text);
        return status;
    }
    json_t *facts = json_null();
    status = device ? info_device_facts(device, profile, &facts) : XLSTM_OK;
    if (status != XLSTM_OK)
        return status;
    return output_json(json_pack("{s:o, s:s?, s:o}", "devices", info_devices(), "device",
                                 device ? device->name : NULL, "device_facts", facts));
}

int info_machine(const options *o) {
    const char *name = option_text(o, OPTION_DEVICE, NULL);
    const char *profile = option_text(o, OPTION_PROFILE, "fast");
    if (option_given(o, OPTION_WIRING))
        return cli_fail_usage("info", "--wiring shows a model: -m/--model MODEL is missing");
    ops_device *device = NULL;
    if (name) {
        char plain[64];
        snprintf(plain, sizeof plain, "%.*s", (int)strcspn(name, ":"), name);
        device = ops_device_find(plain);
        if (!device)
            return cli_fail(XLSTM_UNSUPPORTED);
    }
    xlstm_status status = print_machine(
        device, strcmp(profile, "exact") == 0 ? OPS_EXACT : OPS_FAST, option_given(o, OPTION_JSON));
    return status == XLSTM_OK ? 0 : cli_fail(status);
}
