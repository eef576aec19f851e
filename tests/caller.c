/* Calls the C interface from plain C: loads, lists, runs; every argument is a command.
 *
 *     caller model.gp threads samples [input.bin ...]     writes output0.bin, output1.bin, ...
 *     caller --stress threads calls model.gp ...          many threads, several artifacts, the same results
 */
#include <graphprune.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t size_of(const gp_tensor *tensor, int64_t samples) {
  return tensor->bytes * (tensor->batched ? (size_t)samples : 1);
}

static void *room(const gp_tensor *tensor, int64_t samples) { return calloc(1, size_of(tensor, samples) + 1); }

static void list(const char *kind, const gp_tensor *tensor) {
  printf("%s %s %s %d %zu", kind, tensor->name, tensor->dtype, (int)tensor->batched, tensor->bytes);
  for (int32_t axis = 0; axis < tensor->ndim; ++axis) printf(" %lld", (long long)tensor->shape[axis]);
  printf("\n");
}

static int refused(int status) {
  fprintf(stderr, "%d %s\n", status, gp_error());
  return 1;
}

static int run(int count, char **words) {
  gp_artifact *model;
  void *inputs[16], *outputs[16];
  int64_t samples = atoll(words[3]);
  int status = gp_load(words[1], atoi(words[2]), &model);
  if (status) return refused(status);
  if (gp_input(model, -1) || gp_input(model, gp_input_count(model))) return 2;
  for (int i = 0; i < gp_input_count(model); ++i) {
    const gp_tensor *tensor = gp_input(model, i);
    list("input", tensor);
    inputs[i] = room(tensor, samples);
    FILE *file = i + 4 < count ? fopen(words[i + 4], "rb") : NULL;
    if (file) {
      if (fread(inputs[i], 1, size_of(tensor, samples), file) != size_of(tensor, samples)) return 2;
      fclose(file);
    }
  }
  for (int i = 0; i < gp_output_count(model); ++i) {
    list("output", gp_output(model, i));
    outputs[i] = room(gp_output(model, i), samples);
  }
  status = gp_run(model, samples, (const void *const *)inputs, outputs);
  for (int i = 0; i < gp_output_count(model); ++i) {
    char name[32];
    snprintf(name, sizeof name, "output%d.bin", i);
    FILE *file = status ? NULL : fopen(name, "wb");
    if (file) {
      fwrite(outputs[i], 1, size_of(gp_output(model, i), samples), file);
      fclose(file);
    }
    free(outputs[i]);
  }
  for (int i = 0; i < gp_input_count(model); ++i) free(inputs[i]);
  gp_free(model);
  gp_free(NULL);
  return status ? refused(status) : 0;
}

struct work {
  int calls, models, wrong;
  char **paths;
  gp_artifact **shared;
  float **inputs, **wanted;
};

static void *stress(void *argument) {
  struct work *work = argument;
  for (int call = 0; call < work->calls; ++call) {
    int which = call % work->models;
    gp_artifact *model = work->shared[which];
    if (call % 10 == 9 && gp_load(work->paths[which], 1, &model)) return ++work->wrong, NULL;
    void *output = room(gp_output(model, 0), 1);
    const void *inputs[] = {work->inputs[which]};
    void *outputs[] = {output};
    int status = gp_run(model, 1, inputs, outputs);
    if (status || memcmp(output, work->wanted[which], size_of(gp_output(model, 0), 1))) ++work->wrong;
    free(output);
    if (model != work->shared[which]) gp_free(model);
  }
  return NULL;
}

static int many(int count, char **words) {
  enum { MOST = 16 };
  int threads = atoi(words[2]), models = count - 4, wrong = 0, status;
  gp_artifact *shared[MOST];
  float *inputs[MOST], *wanted[MOST];
  for (int i = 0; i < models; ++i) {
    if ((status = gp_load(words[i + 4], 1, &shared[i]))) return refused(status);
    inputs[i] = room(gp_input(shared[i], 0), 1);
    wanted[i] = room(gp_output(shared[i], 0), 1);
    for (size_t at = 0; at < size_of(gp_input(shared[i], 0), 1) / sizeof(float); ++at) {
      inputs[i][at] = (float)(at % 17) - 8;
    }
    const void *given[] = {inputs[i]};
    void *outputs[] = {wanted[i]};
    if ((status = gp_run(shared[i], 1, given, outputs))) return refused(status);
  }
  pthread_t pool[MOST];
  struct work works[MOST];
  for (int i = 0; i < threads; ++i) {
    works[i] = (struct work){atoi(words[3]), models, 0, words + 4, shared, inputs, wanted};
    pthread_create(&pool[i], NULL, stress, &works[i]);
  }
  for (int i = 0; i < threads; ++i) {
    pthread_join(pool[i], NULL);
    wrong += works[i].wrong;
  }
  for (int i = 0; i < models; ++i) {
    gp_free(shared[i]);
    free(inputs[i]);
    free(wanted[i]);
  }
  printf("%d wrong\n", wrong);
  return wrong != 0;
}

int main(int count, char **words) {
  gp_artifact *model = NULL;
  if (count > 4 && !strcmp(words[1], "--stress")) return many(count, words);
  if (count > 3) return run(count, words);
  /* Without arguments: what must be refused. */
  if (gp_load(NULL, 1, &model) != GP_INPUT_ERROR || gp_load("x", -1, &model) != GP_INPUT_ERROR) return 1;
  if (gp_load("absent.gp", 1, &model) != GP_FILE_ERROR || model || !strstr(gp_error(), "absent.gp")) return 1;
  return gp_run(NULL, 1, NULL, NULL) != GP_INPUT_ERROR;
}
