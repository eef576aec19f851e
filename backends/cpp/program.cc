#include "program.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "error.h"
#include "processor.h"

namespace graphprune {
namespace {

namespace ffi = tvm::ffi;

constexpr int kPooled = 2;
// The mode of the runtime's pool in which workers may move between all processors that they are given.
constexpr int kShareProcessors = -3;

// Compiled code that the calling thread runs from now on uses so many threads, itself included.
void UseThreads(int count) {
  thread_local int configured = 0;
  if (configured == count) return;
  const std::vector<int> allowed = Processors();
  ffi::Array<ffi::String> names;
  for (int number : allowed) names.push_back(ffi::String(std::to_string(number)));
  // How often a worker looks for work before it sleeps: about a millisecond. The runtime's own number keeps a processor
  // busy for fifty after every call.
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "6000", 0);
  // A pool never grows, and this thread may want more later.
  int most = std::max(count, static_cast<int>(allowed.size()));
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kShareProcessors, count, names, most);
  configured = count;
}

// A private folder for temporary files that is gone with this object.
class Temporary {
 public:
  Temporary() {
    const char* root = std::getenv("TMPDIR");
    folder_ = std::string(root && *root ? root : "/tmp") + "/graphprune-XXXXXX";
    if (!mkdtemp(folder_.data())) throw Error(GP_FILE_ERROR, folder_ + " cannot be made: set TMPDIR to another folder");
    path_ = folder_ + "/library.so";
  }
  ~Temporary() {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  std::string folder_, path_;
};

ffi::Module Load(const Bytes& library) {
  Temporary temporary;
  FILE* file = std::fopen(temporary.path().c_str(), "wb");
  bool written = file && std::fwrite(library.data, 1, library.size, file) == library.size;
  if (file && std::fclose(file) != 0) written = false;
  if (!written) throw Error(GP_FILE_ERROR, temporary.path() + " cannot be written: set TMPDIR to another folder");
  try {
    return ffi::Module::LoadFromFile(temporary.path());
  } catch (const ffi::Error& error) {
    throw Error(GP_FILE_ERROR, "the compiled library does not load on this machine: " + error.message() +
                                   " (TMPDIR must name a folder from which code may be loaded)");
  }
}

struct Given {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

ffi::Function Need(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> found = module->GetFunction(name);
  if (!found.has_value()) throw Error(GP_FILE_ERROR, std::string("the compiled library has no function ") + name);
  return *found;
}

}  // namespace

ffi::Tensor View(const void* data, const std::vector<int64_t>& shape, const std::string& dtype) {
  ffi::ShapeView extents(shape.data(), shape.size());
  // Compiled code takes and returns the bits of bfloat16 numbers.
  DLDataType type = ffi::StringToDLDataType(dtype == "bfloat16" ? "uint16" : dtype);
  return ffi::Tensor::FromNDAlloc(Given{const_cast<void*>(data)}, extents, type, DLDevice{kDLCPU, 0});
}

Program::Program(const Bytes& library, const Manifest& manifest, const Bytes& weights, int threads)
    : executable_(Load(library)),
      threads_(threads > 0 ? threads : static_cast<int>(Processors().size())) {
  for (const auto& [name, indices] : manifest.functions) {
    for (int64_t index : indices) {
      const Weight& weight = manifest.weights[index];
      weights_[name].push_back(View(weights.data + weight.offset, weight.shape, weight.dtype));
    }
  }
  free_.push_back(Take());
}

ffi::Module Program::Take() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      ffi::Module machine = free_.back();
      free_.pop_back();
      return machine;
    }
  }
  ffi::Module machine = Need(executable_, "vm_load_executable")().cast<ffi::Module>();
  Need(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooled);
  return machine;
}

std::vector<ffi::Tensor> Program::Run(const std::string& function, const std::vector<ffi::Tensor>& inputs) {
  UseThreads(threads_);
  std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
  auto weights = weights_.find(function);
  if (weights != weights_.end()) arguments.insert(arguments.end(), weights->second.begin(), weights->second.end());
  ffi::Module machine = Take();
  ffi::Any result;
  Need(machine, function.c_str()).CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
  {
    // After an error the machine is dropped: another one takes its place.
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(machine);
  }
  if (auto one = result.as<ffi::Tensor>()) return {*one};
  std::vector<ffi::Tensor> found;
  for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) found.push_back(item.cast<ffi::Tensor>());
  return found;
}

}  // namespace graphprune
