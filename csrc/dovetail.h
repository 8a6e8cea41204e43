/* Dovetail without Python: runs the plans that `dovetail export model.dvt --to plan` writes. C99 and C++. */
#ifndef DOVETAIL_H
#define DOVETAIL_H

#include <stddef.h>

#if defined(_WIN32)
#define DOVETAIL_API
#else
#define DOVETAIL_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A network that is ready to run. It may be used by many threads at a time; they take turns. */
typedef struct dovetail_network dovetail_network;

/* What went wrong in this thread's last call that failed: one sentence. */
DOVETAIL_API const char *dovetail_error(void);

/* A network from a file, or from a file's content, to run on 1 to 256 threads; NULL if there is something wrong. */
DOVETAIL_API dovetail_network *dovetail_load(const char *path, int threads);
DOVETAIL_API dovetail_network *dovetail_read(const void *bytes, size_t size, int threads);
DOVETAIL_API void dovetail_free(dovetail_network *network);

/* How many dimensions one input or output has, without the batch, and what they are. */
DOVETAIL_API size_t dovetail_input_shape(const dovetail_network *network, const int **sides);
DOVETAIL_API size_t dovetail_output_shape(const dovetail_network *network, const int **sides);

/* Runs a batch of inputs, one after the other in C order, and writes as many outputs. 0, or -1 if something is wrong. */
DOVETAIL_API int dovetail_run(dovetail_network *network, int batch, const float *inputs, float *outputs);

/* The most memory that activations of a batch take at a time, in bytes; 0 if something is wrong. */
DOVETAIL_API size_t dovetail_memory(dovetail_network *network, int batch);

#ifdef __cplusplus
}
#endif

#endif
