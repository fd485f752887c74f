/* The subcommands, one a file. Each returns the exit status: 0 success, 1 the work failed, 2 wrong
 * usage, 128 + the signal stopped by one (130: Ctrl-C). */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "cli/options.h"

int command_generate(const options *o);
int command_chat(const options *o);
int command_info(const options *o);
int command_tokenize(const options *o);
int command_logits(const options *o);
int command_perplexity(const options *o);
int command_init(const options *o);
int command_convert(const options *o);
int command_kernels(const options *o);
int command_bench(const options *o);

#endif
