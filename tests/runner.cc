// Runs one function of a compiled library on tensors from files: what tests start in an emulator.
//
//   runner LIBRARY FUNCTION FOLDER COUNT
//
// reads FOLDER/in0 ... in<COUNT-1> and writes FOLDER/out0, ... . A file is a line of text, "code bits rank sizes..." as
// DLPack counts element types, and the bytes of the tensor.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

struct Aligned {
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

static ffi::Tensor Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  int code, bits, rank;
  file >> code >> bits >> rank;
  std::vector<int64_t> sizes(rank);
  for (int64_t& size : sizes) file >> size;
  file.get();
  DLDataType type{static_cast<uint8_t>(code), static_cast<uint8_t>(bits), 1};
  ffi::ShapeView shape(sizes.data(), sizes.size());
  ffi::Tensor tensor = ffi::Tensor::FromNDAlloc(Aligned(), shape, type, DLDevice{kDLCPU, 0});
  file.read(static_cast<char*>(tensor.data_ptr()), ffi::GetDataSize(tensor.numel(), type));
  if (!file) {
    std::cerr << path << " is too short\n";
    std::exit(2);
  }
  return tensor;
}

static void Write(const ffi::Tensor& tensor, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  DLDataType type = tensor.dtype();
  file << int(type.code) << " " << int(type.bits) << " " << tensor.ndim();
  for (int64_t size : tensor.shape()) file << " " << size;
  file << "\n";
  file.write(static_cast<const char*>(tensor.data_ptr()), ffi::GetDataSize(tensor.numel(), type));
}

int main(int count, char** arguments) {
  if (count != 5) return 1;
  std::string folder = arguments[3];
  ffi::Module library = ffi::Module::LoadFromFile(arguments[1]);
  ffi::Module machine = (*library->GetFunction("vm_load_executable"))().cast<ffi::Module>();
  (*machine->GetFunction("vm_initialization"))(static_cast<int>(kDLCPU), 0, 2);
  std::vector<ffi::AnyView> inputs;
  std::vector<ffi::Tensor> tensors;
  for (int index = 0; index < std::atoi(arguments[4]); ++index) {
    tensors.push_back(Read(folder + "/in" + std::to_string(index)));
  }
  for (const ffi::Tensor& tensor : tensors) inputs.push_back(tensor);
  ffi::Any result;
  machine->GetFunction(arguments[2]).value().CallPacked(ffi::PackedArgs(inputs.data(), inputs.size()), &result);
  if (auto single = result.as<ffi::Tensor>()) {
    Write(*single, folder + "/out0");
    return 0;
  }
  int index = 0;
  for (const ffi::Tensor& tensor : result.cast<ffi::Array<ffi::Tensor>>()) {
    Write(tensor, folder + "/out" + std::to_string(index++));
  }
  return 0;
}
