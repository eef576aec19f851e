// Runs a compiled model on a file of raw numbers and prints its first output: classify model.gp input.bin [threads]
#include <graphprune.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

static int Fail(const char* what, const char* why) {
  std::fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

int main(int count, char** words) {
  if (count < 3) return Fail(words[0], "usage: classify model.gp input.bin [threads]");
  gp_artifact* loaded = nullptr;
  if (gp_load(words[1], count > 3 ? std::atoi(words[3]) : 1, &loaded)) return Fail(words[0], gp_error());
  std::unique_ptr<gp_artifact, decltype(&gp_free)> model(loaded, gp_free);

  const gp_tensor *input = gp_input(loaded, 0), *output = gp_output(loaded, 0);
  if (gp_input_count(loaded) != 1 || std::strcmp(output->dtype, "float32")) {
    return Fail(words[1], "this example is for models with one input whose first output is float32");
  }
  std::vector<char> image(input->bytes);
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(words[2], "rb"), std::fclose);
  if (!file || std::fread(image.data(), 1, image.size(), file.get()) != image.size()) {
    return Fail(words[2], "does not hold one input of the model");
  }
  std::vector<std::vector<char>> results;
  std::vector<void*> outputs;
  for (int i = 0; i < gp_output_count(loaded); ++i) {
    results.emplace_back(gp_output(loaded, i)->bytes);
    outputs.push_back(results.back().data());
  }
  const void* inputs[] = {image.data()};
  if (gp_run(loaded, 1, inputs, outputs.data())) return Fail(words[0], gp_error());
  for (size_t i = 0; i < output->bytes / sizeof(float); ++i) {
    float number;
    std::memcpy(&number, results[0].data() + i * sizeof number, sizeof number);
    std::printf("%.9g\n", number);  // nine digits tell every float32
  }
  return 0;
}
