/* THE option table. A new option is one entry here and one line in the list of each command that
 * takes it; help, man page, completion and parsing follow. */
#include "cli/options.h"

#include <string.h>

#include "cli/commands.h"

static const char in[] = "Input", ending[] = "Length and end", sampling[] = "Sampling",
                  output[] = "Output", state[] = "State", machine[] = "Machine",
                  shape[] = "Checkpoint", kernel[] = "Kernel", measure[] = "Measurement";

static const double most = 1e15; /* of counts: exact in a double */

#define MATRIX_TYPES "f32|f16|bf16|q8_0|q5_1|q5_0|q4_1|q4_0|iq4_nl"

const option_spec option_table[OPTION_COUNT] = {
    [OPTION_MODEL] = {OPTION_NONEMPTY, 'm', "model", "MODEL", .section = in,
                      .help = "folder of a checkpoint, or a .gguf file, or a .safetensors file "
                              "with config.json beside it"},
    [OPTION_PROMPT] = {OPTION_STRING, 'p', "prompt", "TEXT", .section = in,
                       .help = "the text to begin with; - reads standard input"},
    [OPTION_FILE] = {OPTION_NONEMPTY, 'f', "file", "FILE", .section = in,
                     .help = "the text is the content of FILE; - reads standard input"},
    [OPTION_TEXT_FILE] = {OPTION_NONEMPTY, 'f', "file", "FILE", .section = in,
                          .help = "a text, taken as one stream; - reads standard input"},
    [OPTION_IDS] = {OPTION_ID_LIST, 0, "ids", "IDS", .minimum = 0, .maximum = INT32_MAX,
                    .section = in,
                    .help = "token ids, separated by commas or spaces, taken as they are"},
    [OPTION_IDS_FILE] = {OPTION_NONEMPTY, 0, "ids-file", "FILE", .section = in,
                         .help = "token ids from a .npy file of any integer type, shape [T]"},
    [OPTION_WINDOWS_FILE] = {OPTION_NONEMPTY, 0, "ids-file", "FILE", .section = in,
                             .help = "token ids from a .npy file of any integer type, shape "
                                     "[windows, T] or [T]; each row starts from a fresh state"},
    [OPTION_WINDOW] = {OPTION_INTEGER, 0, "window", "T", .minimum = 2, .maximum = most,
                       .section = in,
                       .help = "cut the text into windows of T tokens, each from a fresh state"},
    [OPTION_DECODE] = {OPTION_ID_LIST, 0, "decode", "IDS", .minimum = 0, .maximum = INT32_MAX,
                       .or_stdin = true, .section = in,
                       .help = "print the text of these ids; - reads them from standard input"},
    [OPTION_BOS] = {OPTION_FLAG, 0, "bos", .section = in,
                    .help = "put the id that begins a text in front, whatever the config says"},
    [OPTION_NO_BOS] = {OPTION_FLAG, 0, "no-bos", .section = in,
                       .help = "put nothing in front, whatever the config says"},
    [OPTION_PLAIN] = {OPTION_FLAG, 0, "plain", .section = in,
                      .help = "the strings of special tokens are ordinary text"},
    [OPTION_PREFIX] = {OPTION_STRING, 0, "prefix", "TEXT", .section = in,
                       .help = "put TEXT in front of each of your lines (default: nothing)"},
    [OPTION_SUFFIX] = {OPTION_STRING, 0, "suffix", "TEXT", .section = in,
                       .help = "put TEXT behind each of your lines (default: a newline)"},
    [OPTION_LOAD_STATE] = {OPTION_NONEMPTY, 0, "load-state", "FILE", .section = state,
                           .help = "start from a saved state; it has not taken in the id that was "
                                   "generated last"},
    [OPTION_SAVE_STATE] = {OPTION_NONEMPTY, 0, "save-state", "FILE", .section = state,
                           .help = "save the state at the end"},
    [OPTION_MAX_TOKENS] = {OPTION_INTEGER, 'n', "max-tokens", "N", .minimum = -1, .maximum = most,
                           .section = ending,
                           .help = "most new tokens; -1: until the end of text (default: 128)"},
    [OPTION_STOP] = {OPTION_NONEMPTY, 0, "stop", "TEXT", .repeatable = true, .section = ending,
                     .help = "end where TEXT comes up, without printing it; may be repeated"},
    [OPTION_STOP_ID] = {OPTION_ID_LIST, 0, "stop-id", "IDS", .minimum = 0, .maximum = INT32_MAX,
                        .repeatable = true, .section = ending,
                        .help = "end at any of these ids; may be repeated"},
    [OPTION_IGNORE_EOS] = {OPTION_FLAG, 0, "ignore-eos", .section = ending,
                           .help = "go on after the end of text"},
    [OPTION_TEMPERATURE] = {OPTION_NUMBER, 0, "temperature", "X", .minimum = 0, .maximum = 1000,
                            .section = sampling,
                            .help = "divide the logits by X; 0: always the most probable token "
                                    "(default: 0)"},
    [OPTION_TOP_K] = {OPTION_INTEGER, 0, "top-k", "K", .minimum = 0, .maximum = INT32_MAX,
                      .section = sampling,
                      .help = "choose among the K most probable tokens; 0: among all (default: 0)"},
    [OPTION_TOP_P] = {OPTION_NUMBER, 0, "top-p", "P", .minimum = 0, .maximum = 1,
                      .section = sampling,
                      .help = "choose among the most probable tokens that together reach "
                              "probability P; 0 or 1: among all (default: 1)"},
    [OPTION_MIN_P] = {OPTION_NUMBER, 0, "min-p", "P", .minimum = 0, .maximum = 1,
                      .section = sampling,
                      .help = "leave out tokens less probable than P times the most probable one "
                              "(default: 0)"},
    [OPTION_REPETITION_PENALTY] = {OPTION_NUMBER, 0, "repetition-penalty", "X", .minimum = 0,
                                   .maximum = 1000, .section = sampling,
                                   .help = "above 1: tokens of the text so far become less "
                                           "probable; 0 or 1: off (default: 1)"},
    [OPTION_SEED] = {OPTION_UINT64, 0, "seed", "N", .section = sampling,
                     .help = "the same seed gives the same text (default: 0)"},
    [OPTION_ECHO] = {OPTION_FLAG, 0, "echo", .section = output,
                     .help = "print the text to begin with, too"},
    [OPTION_PRINT_IDS] = {OPTION_FLAG, 0, "print-ids", .section = output,
                          .help = "print the new ids on one line instead of their text"},
    [OPTION_LAST] = {OPTION_FLAG, 0, "last", .section = output,
                     .help = "only the row of the last position"},
    [OPTION_OUTPUT_NPY] = {OPTION_NONEMPTY, 'o', "output", "FILE", .section = output,
                           .help = "the .npy file to write: float32 [T, vocabulary]"},
    [OPTION_WIRING] = {OPTION_CHOICE, 0, "wiring", "STYLE", .choices = "unicode|ascii|dot|json",
                       .section = output, .help = "print the graph of blocks, and nothing else"},
    [OPTION_CONFIG] = {OPTION_NONEMPTY, 0, "config", "FILE", .section = shape,
                       .help = "config.json or config.yaml that says what shape the model has"},
    [OPTION_OUTPUT_FOLDER] = {OPTION_NONEMPTY, 'o', "output", "FOLDER", .section = shape,
                              .help = "the folder to write; it is created, and must not hold a "
                                      "checkpoint"},
    [OPTION_DTYPE] = {OPTION_CHOICE, 0, "dtype", "TYPE", .choices = "f32|bf16|f16",
                      .section = shape, .help = "type of the weights (default: bf16)"},
    [OPTION_INIT_SEED] = {OPTION_UINT64, 0, "seed", "N", .section = shape,
                          .help = "the same seed gives the same bytes (default: 0)"},
    [OPTION_SHARD_SIZE] = {OPTION_BYTES, 0, "shard-size", "SIZE", .minimum = 1, .maximum = most,
                           .section = shape,
                           .help = "most bytes of a file, such as 500MB (default: 5GB)"},
    [OPTION_FUSED] = {OPTION_FLAG, 0, "fused", .section = shape,
                      .help = "write the fused layout: q, k, v and o in one tensor, and so on"},
    [OPTION_CONVERT_OUTPUT] = {OPTION_NONEMPTY, 'o', "output", "OUT", .section = shape,
                               .help = "what to write: one file if the name ends in .gguf, else a "
                                       "folder, which is created, and must not hold a checkpoint"},
    [OPTION_CONVERT_TYPE] = {OPTION_CHOICE, 0, "type", "TYPE", .choices = MATRIX_TYPES "|same",
                             .section = shape,
                             .help = "type of the matrices; same: every tensor as it is"},
    [OPTION_EMBEDDING_TYPE] = {OPTION_CHOICE, 0, "embedding-type", "TYPE", .choices = MATRIX_TYPES,
                               .section = shape,
                               .help = "type of the embedding (default: q8_0 with quantised types, "
                                       "else TYPE)"},
    [OPTION_HEAD_TYPE] = {OPTION_CHOICE, 0, "head-type", "TYPE", .choices = MATRIX_TYPES,
                          .section = shape, .help = "type of the head (default: likewise)"},
    [OPTION_CALIBRATE] = {OPTION_NONEMPTY, 0, "calibrate", "FILE", .section = shape,
                          .help = "run the text of FILE through the model first, and round best "
                                  "what its activations make count most"},
    [OPTION_FORCE] = {OPTION_FLAG, 0, "force", .section = shape,
                      .help = "replace an existing .gguf file"},
    [OPTION_PROMPT_TOKENS] = {OPTION_ID_LIST, 0, "prompt-tokens", "LIST", .minimum = 1,
                              .maximum = 1 << 24, .section = measure,
                              .help = "lengths of the prompts (default: 64,128,512,1024,4096)"},
    [OPTION_TOKENS] = {OPTION_INTEGER, 0, "tokens", "N", .minimum = 1, .maximum = 1 << 24,
                       .section = measure,
                       .help = "most tokens decoded a run, which ends after 2 seconds too "
                               "(default: 32)"},
    [OPTION_BATCH] = {OPTION_ID_LIST, 0, "batch", "LIST", .minimum = 1, .maximum = 4096,
                      .section = measure,
                      .help = "numbers of sequences decoded at once (default: 1,4,16)"},
    [OPTION_REPEAT] = {OPTION_INTEGER, 0, "repeat", "N", .minimum = 1, .maximum = 10000,
                       .section = measure,
                       .help = "runs of each measurement; the median counts (default: 5)"},
    [OPTION_COMPARE] = {OPTION_NONEMPTY, 0, "compare", "FILE", .section = measure,
                        .help = "print ratios to an earlier run, whose --json output FILE is"},
    [OPTION_IN_FOLDER] = {OPTION_NONEMPTY, 0, "in", "DIR", .section = in,
                          .help = "folder with a .npy file for each input, named after it"},
    [OPTION_OUT_FOLDER] = {OPTION_NONEMPTY, 0, "out", "DIR", .section = output,
                           .help = "folder for the outputs; it is created"},
    [OPTION_BACKWARD] = {OPTION_CHOICE, 0, "backward", "FORM", .choices = "exact|upstream",
                         .section = kernel,
                         .help = "gradients, too: exact is the gradient of the formula, upstream "
                                 "what the reference's mLSTM kernels compute"},
    [OPTION_CHUNK_SIZE] = {OPTION_INTEGER, 0, "chunk-size", "L", .minimum = 1, .maximum = 1 << 24,
                           .section = kernel, .help = "tokens of a chunk (default: 64)"},
    [OPTION_EPS] = {OPTION_NUMBER, 0, "eps", "X", .minimum = 0, .maximum = 1e30, .section = kernel,
                    .help = "added to the denominator, or to the variance of a norm "
                            "(default: 1e-6)"},
    [OPTION_NORMALIZE] = {OPTION_CHOICE, 0, "normalize", "0|1", .choices = "0|1", .section = kernel,
                          .help = "with the sigmoid input gate: divide by the denominator "
                                  "(default: 1)"},
    [OPTION_ACCUMULATE] = {OPTION_CHOICE, 0, "accumulate", "HOW", .choices = "plain|compensated",
                           .section = kernel,
                           .help = "compensated: gate sums and states in two-float arithmetic "
                                   "(default: plain)"},
    [OPTION_ALL_STATES] = {OPTION_FLAG, 0, "all-states", .section = kernel,
                           .help = "write the states of all chunks or tokens, too"},
    [OPTION_GROUPS] = {OPTION_INTEGER, 0, "groups", "N", .minimum = 1, .maximum = 1 << 24,
                       .section = kernel,
                       .help = "norms: equal parts of a row, each with statistics of its own "
                               "(default: 1)"},
    [OPTION_SOFT_CAP] = {OPTION_NUMBER, 0, "soft-cap", "X", .minimum = 1e-30, .maximum = 1e30,
                         .section = kernel, .help = "the bound of soft_cap (default: 15)"},
    [OPTION_FORWARD_CLIP] = {OPTION_NUMBER, 0, "forward-clip", "X", .minimum = 0, .maximum = 1e30,
                             .section = kernel,
                             .help = "sLSTM, LSTM: bound of y; 0: none (default: 0)"},
    [OPTION_RECURRENT_CLIP] = {OPTION_NUMBER, 0, "recurrent-clip", "X", .minimum = 0,
                               .maximum = 1e30, .section = kernel,
                               .help = "sLSTM, LSTM: bound of the gradient that enters y from the "
                                       "next step; 0: none (default: 0)"},
    [OPTION_RECURRENT_CUT] = {OPTION_FLAG, 0, "recurrent-cut", .section = kernel,
                              .help = "sLSTM, LSTM: no gradient through the recurrent weights' "
                                      "input"},
    [OPTION_IGNORE_INDEX] = {OPTION_INTEGER, 0, "ignore-index", "N", .minimum = -most,
                             .maximum = most, .section = kernel,
                             .help = "cross_entropy: targets without loss (default: -1)"},
    [OPTION_JSON] = {OPTION_FLAG, 0, "json", .section = output, .help = "print one JSON object"},
    [OPTION_THREADS] = {OPTION_INTEGER, 't', "threads", "N", .minimum = 1, .maximum = 4096,
                        .section = machine, .help = "threads (default: one for every processor)"},
    [OPTION_PIN] = {OPTION_FLAG, 0, "pin", .section = machine,
                    .help = "keep each thread on its own processor, siblings of one core last "
                            "(Linux)"},
    [OPTION_DEVICE] = {OPTION_CHOICE, 0, "device", "NAME",
                       .choices = "cpu|reference|reference:f64|cuda|metal", .section = machine,
                       .help = "where to compute; metal is the GPU of a Mac with Apple silicon, "
                               "macOS 14 or later; reference is plain and slow, reference:f64 "
                               "also computes in double (default: cpu)"},
    [OPTION_PROFILE] = {OPTION_CHOICE, 0, "profile", "NAME", .choices = "fast|exact|upstream",
                        .section = machine,
                        .help = "how to round: exact is bit-equal for any number of threads "
                                "(default: fast)"},
    [OPTION_PREFILL] = {OPTION_CHOICE, 0, "prefill", "NAME", .choices = "profile|fp8",
                        .section = machine,
                        .help = "how matrices are multiplied by more than 128 tokens at once: as "
                                "--profile says, or with factors in fp8 (e4m3), which rounds more; "
                                "fp8 needs --device cuda on an H100 or H200, and memory for a byte "
                                "a weight (default: profile)"},
    [OPTION_STATE_DTYPE] = {OPTION_CHOICE, 0, "state-dtype", "TYPE", .choices = "f32|bf16|f16",
                            .section = state,
                            .help = "type that the matrix states are stored in (default: f32)"},
    [OPTION_DEFERRED] = {OPTION_INTEGER, 0, "deferred", "C", .minimum = 0, .maximum = 64,
                         .section = state,
                         .help = "fold tokens into the matrix states C at a time; a power of two; "
                                 "0: at once (default: 0)"},
    [OPTION_BATCH_TOKENS] = {OPTION_INTEGER, 0, "batch-tokens", "N", .minimum = 1,
                             .maximum = 1 << 20, .section = machine,
                             .help = "most tokens that go through the layers at once; bounds the "
                                     "memory (default: 512; with cuda: 8192)"},
    [OPTION_HELP] = {OPTION_FLAG, 'h', "help", .section = "Help", .help = "print this help"},
};

#define MACHINE_OPTIONS                                                                            \
    OPTION_THREADS, OPTION_DEVICE, OPTION_PROFILE, OPTION_PREFILL, OPTION_BATCH_TOKENS,            \
        OPTION_STATE_DTYPE, OPTION_DEFERRED
#define RUNNING_OPTIONS MACHINE_OPTIONS, OPTION_PIN
#define SAMPLING_OPTIONS                                                                           \
    OPTION_TEMPERATURE, OPTION_TOP_K, OPTION_TOP_P, OPTION_MIN_P, OPTION_REPETITION_PENALTY,       \
        OPTION_SEED
#define PROMPT_OPTIONS                                                                             \
    OPTION_PROMPT, OPTION_FILE, OPTION_IDS, OPTION_IDS_FILE, OPTION_BOS, OPTION_NO_BOS
#define PROMPT_EXCLUSIVE                                                                           \
    {OPTION_PROMPT, OPTION_FILE, OPTION_IDS, OPTION_IDS_FILE}, {                                   \
        OPTION_BOS, OPTION_NO_BOS, OPTION_IDS, OPTION_IDS_FILE                                     \
    }

const command_spec command_table[] = {
    {"generate",
     "continue a text",
     "Continues a text, token by token. The text goes to standard output and nothing else does; "
     "progress and speed go to standard error.\n\n"
     "An empty prompt (-p '') starts from the id that begins a text. A saved state has not "
     "taken in the id that was generated last: to go on where a run ended, give that id with "
     "--ids. With -n 0 the prompt is taken in and nothing is generated, which is a way to "
     "prepare a state. Ctrl-C ends the text, prints the speed, saves the state if that was "
     "asked for, and exits with status 130.",
     {"xlstm generate -m models/reference-17m -p 'The capital of France is' -n 48",
      "xlstm generate -m models/reference-17m -f story.txt --temperature 0.8 --top-p 0.9 --seed 7",
      "xlstm generate -m models/reference-17m --ids 0,12,5 -n 48 --ignore-eos --print-ids"},
     {OPTION_MODEL, PROMPT_OPTIONS, OPTION_MAX_TOKENS, OPTION_STOP, OPTION_STOP_ID,
      OPTION_IGNORE_EOS, SAMPLING_OPTIONS, OPTION_LOAD_STATE, OPTION_SAVE_STATE, OPTION_ECHO,
      OPTION_PRINT_IDS, OPTION_JSON, RUNNING_OPTIONS, OPTION_HELP},
     {OPTION_MODEL},
     {PROMPT_EXCLUSIVE, {OPTION_ECHO, OPTION_PRINT_IDS, OPTION_JSON}},
     command_generate,
     NULL},
    {"chat",
     "talk with a model, line by line",
     "Reads a line, feeds it, and prints the answer; the state is kept across turns, so that "
     "nothing is read twice. The models have no chat template: what is fed is your line between "
     "--prefix and --suffix. Lines that begin with / are commands, which /help lists. Ctrl-C "
     "stops the answer and not the program; Ctrl-D leaves.\n\n"
     "Works without a terminal too, by reading lines from standard input. The history of lines "
     "is kept in $XDG_STATE_HOME/xlstm/history (~/.local/state if that is not set), readable by "
     "you only.",
     {"xlstm chat -m models/reference-17m --temperature 0.8",
      "xlstm chat -m models/reference-17m --prefix 'Question: ' --suffix '\n"
      "Answer:' --stop Question:"},
     {OPTION_MODEL, OPTION_PREFIX, OPTION_SUFFIX, OPTION_BOS, OPTION_NO_BOS, OPTION_MAX_TOKENS,
      OPTION_STOP, OPTION_STOP_ID, OPTION_IGNORE_EOS, SAMPLING_OPTIONS, OPTION_LOAD_STATE,
      RUNNING_OPTIONS, OPTION_HELP},
     {OPTION_MODEL},
     {{OPTION_BOS, OPTION_NO_BOS}},
     command_chat,
     NULL},
    {"info",
     "what a checkpoint is, and what it needs",
     "Prints the config, the types and sizes of the weights, the size of a session's state, the "
     "memory that running needs and what is free, and what would run where. The checkpoint is "
     "checked on the way; its weights are not read. Without a model: the devices of this build; "
     "with --device metal also the GPU, its memory, and what will be used of it.",
     {"xlstm info -m models/reference-17m", "xlstm info -m models/reference-17m --wiring unicode",
      "xlstm info --device metal"},
     {OPTION_MODEL, OPTION_WIRING, OPTION_JSON, MACHINE_OPTIONS, OPTION_HELP},
     {OPTION_NONE},
     {{OPTION_WIRING, OPTION_JSON}},
     command_info,
     NULL},
    {"tokenize",
     "text to ids, and back",
     "Prints the ids of a text on one line, separated by spaces, or with --decode the text of "
     "ids, byte for byte. Nothing is put in front unless --bos is given. MODEL may also be a "
     "tokenizer.json.",
     {"xlstm tokenize -m models/reference-17m -p 'Hello world'",
      "xlstm tokenize -m models/reference-17m --decode 0,12,5"},
     {OPTION_MODEL, OPTION_PROMPT, OPTION_FILE, OPTION_DECODE, OPTION_BOS, OPTION_PLAIN,
      OPTION_JSON, OPTION_HELP},
     {OPTION_MODEL},
     {{OPTION_PROMPT, OPTION_FILE, OPTION_DECODE},
      {OPTION_BOS, OPTION_DECODE},
      {OPTION_PLAIN, OPTION_DECODE}},
     command_tokenize,
     NULL},
    {"logits",
     "the logits of every position, as a .npy file",
     "Writes the logits after the soft cap, one row a position: float32 [T, vocabulary], or "
     "[1, vocabulary] with --last. Row t are the logits of the id that follows id t. Needs no "
     "tokenizer with --ids or --ids-file.",
     {"xlstm logits -m models/reference-17m --ids 0,12,5 -o out.npy",
      "xlstm logits -m models/reference-17m -p 'The capital of France is' --last -o out.npy"},
     {OPTION_MODEL, PROMPT_OPTIONS, OPTION_LOAD_STATE, OPTION_LAST, OPTION_OUTPUT_NPY,
      RUNNING_OPTIONS, OPTION_HELP},
     {OPTION_MODEL, OPTION_OUTPUT_NPY},
     {PROMPT_EXCLUSIVE},
     command_logits,
     NULL},
    {"perplexity",
     "how well a model predicts a text",
     "The mean of -ln p over the predicted tokens (nll), and e to that power. With -f the text "
     "is one stream with the id that begins a text in front and the state carried through; "
     "--window T cuts it into windows that each start from a fresh state. With --ids-file each "
     "row starts from a fresh state. T ids give T - 1 predictions.",
     {"xlstm perplexity -m models/reference-17m -f README.md",
      "xlstm perplexity -m models/reference-17m --ids-file windows.npy --json"},
     {OPTION_MODEL, OPTION_TEXT_FILE, OPTION_WINDOWS_FILE, OPTION_WINDOW, OPTION_NO_BOS,
      OPTION_JSON, RUNNING_OPTIONS, OPTION_HELP},
     {OPTION_MODEL},
     {{OPTION_TEXT_FILE, OPTION_WINDOWS_FILE},
      {OPTION_WINDOWS_FILE, OPTION_WINDOW},
      {OPTION_WINDOWS_FILE, OPTION_NO_BOS}},
     command_perplexity,
     NULL},
    {"init",
     "a randomly initialised checkpoint of any shape",
     "Writes config.json and safetensors files with the initial values of the reference, except "
     "that the output gate and the feed-forward gate are random too, which it sets to 0. The "
     "bytes depend on the config, the type and the seed alone. Nothing stays behind on failure.",
     {"xlstm init --config models/reference-17m/config.json -o /tmp/random --dtype bf16 --seed 1"},
     {OPTION_CONFIG, OPTION_OUTPUT_FOLDER, OPTION_DTYPE, OPTION_INIT_SEED, OPTION_SHARD_SIZE,
      OPTION_FUSED, OPTION_THREADS, OPTION_HELP},
     {OPTION_CONFIG, OPTION_OUTPUT_FOLDER},
     {{OPTION_NONE}},
     command_init,
     NULL},
    {"convert",
     "the same model in other types, as one GGUF file or as a folder",
     "Writes the tensors of any checkpoint (a folder of Hugging Face, of the official package or "
     "of "
     "the NeurIPS experiments, or a GGUF file) under their own names, matrices in the type asked "
     "for; config and tokenizer go along. A GGUF file is one file that runs by itself. Quantised "
     "types exist in GGUF files only; with them norms, gates and biases become f32, which is "
     "exact. "
     "The scale of every block of 32 values is searched for; --calibrate weighs the errors by "
     "what the text makes of them. docs/QUANTISATION.md has sizes, perplexity and speed of all "
     "types.\n\n"
     "Memory does not grow with the model. The output appears under its name when it is complete; "
     "nothing stays behind on failure.",
     {"xlstm convert -m models/reference-17m -o model.gguf --type q8_0",
      "xlstm convert -m models/reference-17m -o small.gguf --type q4_0 --calibrate text.txt",
      "xlstm convert -m model.gguf -o folder --type bf16"},
     {OPTION_MODEL, OPTION_CONVERT_OUTPUT, OPTION_CONVERT_TYPE, OPTION_EMBEDDING_TYPE,
      OPTION_HEAD_TYPE, OPTION_CALIBRATE, OPTION_FORCE, OPTION_THREADS, OPTION_HELP},
     {OPTION_MODEL, OPTION_CONVERT_OUTPUT, OPTION_CONVERT_TYPE},
     {{OPTION_NONE}},
     command_convert,
     NULL},
    {"kernels",
     "list the kernels, or run one on .npy files",
     "Without a name: every kernel of this build, one a line. With run and the name of a kernel: "
     "reads its inputs from NAME.npy files in the folder --in and writes its outputs into the "
     "folder --out, so that a kernel can be compared from any language. What the arguments are "
     "called, and their shapes, is in docs/KERNELS.md and in the list with --json. Optional inputs "
     "(c0, n0, m0, s0, dc, dn …) are read where their files exist. Gradients are written with "
     "--backward; those of initial states where these were given. The type of the files (f8, f4, "
     "f2) is the type of the run.",
     {"xlstm kernels", "xlstm kernels run chunkwise--cpu --in inputs --out outputs",
      "xlstm kernels run sequence--reference --in inputs --out outputs --backward exact --eps 0"},
     {OPTION_IN_FOLDER, OPTION_OUT_FOLDER, OPTION_BACKWARD, OPTION_CHUNK_SIZE, OPTION_EPS,
      OPTION_NORMALIZE, OPTION_ACCUMULATE, OPTION_ALL_STATES, OPTION_GROUPS, OPTION_SOFT_CAP,
      OPTION_FORWARD_CLIP, OPTION_RECURRENT_CLIP, OPTION_RECURRENT_CUT, OPTION_IGNORE_INDEX,
      OPTION_THREADS, OPTION_JSON, OPTION_HELP},
     {OPTION_NONE},
     {{OPTION_NONE}},
     command_kernels,
     "[run NAME]"},
    {"bench",
     "prefill and decode speed, and the limits of this machine",
     "Measures first what this machine can do (memory read, memory read-modify-write, fused "
     "multiply-adds, and products of tiles where the processor has AMX), then decode and prefill. "
     "Each number comes with the bytes and operations it needed and the percentage of the limit, "
     "which is sampled anew beside every run; medians after a warm-up. Batches for which there is "
     "no memory are left out, and it is said which, unless --batch asks for them.",
     {"xlstm bench -m models/reference-17m",
      "xlstm bench -m models/reference-17m --prompt-tokens 512 --batch 1,16 --json > before.json",
      "xlstm bench -m models/reference-17m --compare before.json"},
     {OPTION_MODEL, OPTION_PROMPT_TOKENS, OPTION_TOKENS, OPTION_BATCH, OPTION_REPEAT,
      OPTION_COMPARE, OPTION_JSON, RUNNING_OPTIONS, OPTION_HELP},
     {OPTION_MODEL},
     {{OPTION_NONE}},
     command_bench,
     NULL},
};

const int command_count = (int)(sizeof command_table / sizeof *command_table);

const command_spec *command_find(const char *name) {
    for (int i = 0; i < command_count; i++) {
        if (strcmp(command_table[i].name, name) == 0)
            return &command_table[i];
    }
    return NULL;
}

void option_print_name(enum option_id id, buffer *out) {
    const option_spec *spec = &option_table[id];
    if (spec->letter)
        buffer_print(out, "-%c/", spec->letter);
    buffer_print(out, "--%s", spec->name);
}
