// The C interface: statuses and messages instead of exceptions, plain memory instead of tensors.
#include "graphprune.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "batches.h"
#include "container.h"
#include "error.h"
#include "manifest.h"
#include "processor.h"
#include "program.h"

using graphprune::Bytes;
using graphprune::Container;
using graphprune::Error;
using graphprune::Manifest;
using graphprune::Program;
using graphprune::Tensor;

struct gp_artifact {
  std::unique_ptr<Container> container;  // separate weights lie in its mapping
  Manifest manifest;
  std::vector<gp_tensor> inputs, outputs;
  std::unique_ptr<Program> program;
};

namespace {

constexpr size_t kAlignment = 64;
thread_local std::string message;

template <typename Body>
int Guarded(Body body) {
  try {
    body();
    return GP_OK;
  } catch (const Error& error) {
    message = error.what();
    return error.status;
  } catch (const tvm::ffi::Error& error) {
    message = error.message();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return GP_RUN_ERROR;
}

std::vector<gp_tensor> Described(const std::vector<Tensor>& tensors) {
  std::vector<gp_tensor> found;
  for (const Tensor& tensor : tensors) {
    found.push_back({tensor.name.c_str(), tensor.dtype.c_str(), tensor.shape.data(),
                     static_cast<int32_t>(tensor.shape.size()), tensor.batched, tensor.bytes});
  }
  return found;
}

void CheckProcessor(const Manifest& manifest, const std::string& path) {
  const std::vector<std::string> missing = graphprune::MissingHere(manifest.architecture, manifest.features);
  if (!missing.empty()) {
    std::string names;
    for (const std::string& name : missing) names += (names.empty() ? "" : ", ") + name;
    throw Error(GP_TARGET_ERROR, path + " was compiled for " + manifest.target + ", but this processor lacks " + names +
                                     "; compile the model for a target that it is");
  }
  if (!manifest.device.empty()) {
    throw Error(GP_TARGET_ERROR, path + " was compiled for a " + manifest.device +
                                     ", which the C interface does not use");
  }
}

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};
using Room = std::unique_ptr<char, Free>;

Room Aligned(size_t size) {
  Room room(static_cast<char*>(std::aligned_alloc(kAlignment, (size / kAlignment + 1) * kAlignment)));
  if (!room) throw std::bad_alloc();
  return room;
}

// One piece of a call: `size` samples of which `valid` are there, from sample `start` on.
void RunPiece(gp_artifact* artifact, int64_t start, int64_t valid, int64_t size, const void* const* inputs,
              void* const* outputs) {
  const Manifest& manifest = artifact->manifest;
  std::vector<Room> rooms;
  std::vector<tvm::ffi::Tensor> tensors;
  for (size_t i = 0; i < manifest.inputs.size(); ++i) {
    const Tensor& tensor = manifest.inputs[i];
    std::vector<int64_t> shape = tensor.shape;
    size_t bytes = tensor.bytes, there = bytes;
    const char* data = static_cast<const char*>(inputs[i]);
    if (tensor.batched) {
      shape[0] = size;
      data += start * bytes;
      there = valid * bytes;
      bytes = size * bytes;
    }
    if (there != bytes || reinterpret_cast<uintptr_t>(data) % kAlignment) {
      rooms.push_back(Aligned(bytes));
      std::memcpy(rooms.back().get(), data, there);
      // The last sample stands in for missing ones: it is certainly something the model can compute.
      for (size_t at = there; at < bytes; at += tensor.bytes) {
        std::memcpy(rooms.back().get() + at, data + there - tensor.bytes, tensor.bytes);
      }
      data = rooms.back().get();
    }
    tensors.push_back(graphprune::View(data, shape, tensor.dtype));
  }
  const std::string function = manifest.batch_sizes.empty() ? "main" : "main_" + std::to_string(size);
  const std::vector<tvm::ffi::Tensor> results = artifact->program->Run(function, tensors);
  if (results.size() != manifest.outputs.size()) {
    throw Error(GP_RUN_ERROR, "the model returned another number of tensors");
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const Tensor& tensor = manifest.outputs[i];
    size_t whole = tensor.bytes * (tensor.batched ? size : 1);
    if (tvm::ffi::GetDataSize(results[i]) != whole) {
      throw Error(GP_RUN_ERROR, "the output " + tensor.name + " has another size than the artifact says");
    }
    char* to = static_cast<char*>(outputs[i]) + (tensor.batched ? start * tensor.bytes : 0);
    std::memcpy(to, results[i].data_ptr(), tensor.batched ? valid * tensor.bytes : whole);
  }
}

void CheckPointers(const void* const* pointers, const std::vector<Tensor>& tensors, const char* kind) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!pointers || !pointers[i]) throw Error(GP_INPUT_ERROR, std::string(kind) + " " + tensors[i].name + " is NULL");
  }
}

}  // namespace

int gp_load(const char* path, int threads, gp_artifact** artifact) {
  return Guarded([&] {
    if (!path || !artifact) throw Error(GP_INPUT_ERROR, "path and artifact must not be NULL");
    *artifact = nullptr;
    if (threads < 0) throw Error(GP_INPUT_ERROR, "threads must be 0 or more, not " + std::to_string(threads));
    auto made = std::make_unique<gp_artifact>();
    made->container = std::make_unique<Container>(path);
    made->manifest = graphprune::ReadManifest(*made->container, path);
    CheckProcessor(made->manifest, path);
    const auto& members = made->container->members();
    auto weights = members.find("weights.bin");
    const Bytes data = weights == members.end() ? Bytes{} : weights->second;
    made->program = std::make_unique<Program>(members.at("library.so"), made->manifest, data, threads);
    made->inputs = Described(made->manifest.inputs);
    made->outputs = Described(made->manifest.outputs);
    *artifact = made.release();
  });
}

int gp_input_count(const gp_artifact* artifact) { return static_cast<int>(artifact->inputs.size()); }

int gp_output_count(const gp_artifact* artifact) { return static_cast<int>(artifact->outputs.size()); }

const gp_tensor* gp_input(const gp_artifact* artifact, int index) {
  return index >= 0 && index < gp_input_count(artifact) ? &artifact->inputs[index] : nullptr;
}

const gp_tensor* gp_output(const gp_artifact* artifact, int index) {
  return index >= 0 && index < gp_output_count(artifact) ? &artifact->outputs[index] : nullptr;
}

int gp_run(gp_artifact* artifact, int64_t samples, const void* const* inputs, void* const* outputs) {
  return Guarded([&] {
    if (!artifact) throw Error(GP_INPUT_ERROR, "the artifact is NULL");
    const std::vector<int64_t>& sizes = artifact->manifest.batch_sizes;
    if (samples < 1) throw Error(GP_INPUT_ERROR, "samples must be at least 1, not " + std::to_string(samples));
    if (sizes.empty() && samples != 1) {
      throw Error(GP_INPUT_ERROR, "this artifact was not compiled for batches: samples must be 1, not " +
                                      std::to_string(samples) + " (compile it with batch_sizes=)");
    }
    CheckPointers(inputs, artifact->manifest.inputs, "input");
    CheckPointers(outputs, artifact->manifest.outputs, "output");
    if (sizes.empty()) return RunPiece(artifact, 0, 1, 1, inputs, outputs);
    int64_t start = 0;
    for (int64_t size : graphprune::Cover(samples, sizes)) {
      int64_t valid = std::min(size, samples - start);
      RunPiece(artifact, start, valid, size, inputs, outputs);
      start += valid;
    }
  });
}

const char* gp_error(void) { return message.c_str(); }

void gp_free(gp_artifact* artifact) { delete artifact; }
