/* Runs models that GraphPrune compiled: a C interface, for C, C++ and every language that can call C.
 *
 *     gp_artifact *model;
 *     if (gp_load("model.gp", 1, &model)) { fprintf(stderr, "%s\n", gp_error()); return 1; }
 *     const void *inputs[] = {image};
 *     void *outputs[] = {scores};
 *     if (gp_run(model, 1, inputs, outputs)) { fprintf(stderr, "%s\n", gp_error()); return 1; }
 *     gp_free(model);
 *
 * Tensors are plain memory: contiguous, in row-major order, in the processor's byte order. Inputs that begin at a
 * multiple of 64 bytes are read in place, others are copied. An artifact may be used by several threads at once.
 */
#ifndef GRAPHPRUNE_H_
#define GRAPHPRUNE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GP_API __attribute__((visibility("default")))
#else
#define GP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gp_artifact gp_artifact;

/* What functions return. */
enum gp_status {
  GP_OK = 0,
  GP_FILE_ERROR = 1,   /* the file is absent, damaged, or not an artifact that this version reads */
  GP_TARGET_ERROR = 2, /* this processor or device lacks what the code needs */
  GP_INPUT_ERROR = 3,  /* an argument is wrong */
  GP_RUN_ERROR = 4     /* the model failed while it ran */
};

/* An input or output. `dtype` is "float32", "int64", "bool", ... The first axis of a `batched` tensor is free:
 * `shape[0]` is then the smallest size that was compiled, and `bytes` the size of one sample, not of the
 * tensor. */
typedef struct gp_tensor {
  const char *name;
  const char *dtype;
  const int64_t *shape;
  int32_t ndim;
  int32_t batched;
  size_t bytes;
} gp_tensor;

/* Load an artifact, a file or a folder. Format, completeness, checksums and processor are checked before any of its
 * code is loaded. `threads` is how many threads a call uses; 0: as many as this process may use processors. */
GP_API int gp_load(const char *path, int threads, gp_artifact **artifact);

/* How many inputs and outputs there are, and what they are: NULL beyond the last one. Valid until gp_free. */
GP_API int gp_input_count(const gp_artifact *artifact);
GP_API int gp_output_count(const gp_artifact *artifact);
GP_API const gp_tensor *gp_input(const gp_artifact *artifact, int index);
GP_API const gp_tensor *gp_output(const gp_artifact *artifact, int index);

/* Run the model: `inputs` and `outputs` hold a pointer per tensor, in order; outputs are written. `samples` is the
 * number of samples in batched tensors, any number from 1; it is 1 where no tensor is batched. */
GP_API int gp_run(gp_artifact *artifact, int64_t samples, const void *const *inputs, void *const *outputs);

/* What went wrong in the last call of this thread that did not return GP_OK. */
GP_API const char *gp_error(void);

/* Forget an artifact; NULL is allowed. */
GP_API void gp_free(gp_artifact *artifact);

#ifdef __cplusplus
}
#endif

#endif /* GRAPHPRUNE_H_ */
