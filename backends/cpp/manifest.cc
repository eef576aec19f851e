#include "manifest.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>

#include <algorithm>

#include "error.h"
#include "sha256.h"

namespace graphprune {
namespace {

namespace ffi = tvm::ffi;
using ffi::json::Array;
using ffi::json::Object;

constexpr int64_t kFormatVersion = 2;
constexpr size_t kLargestManifest = 16 << 20, kDeepest = 100, kAlignment = 64;
const char kAdvice[] = "; copy it again or compile the model again";

[[noreturn]] void Refuse(const std::string& what) { throw Error(GP_FILE_ERROR, what); }

// How deep lists and dictionaries are nested: the parser calls itself for each level.
size_t Depth(const Bytes& text) {
  size_t depth = 0, deepest = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size; ++i) {
    char letter = text.data[i];
    if (quoted && letter == '\\') {
      ++i;
    } else if (letter == '"') {
      quoted = !quoted;
    } else if (!quoted && (letter == '[' || letter == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!quoted && (letter == ']' || letter == '}') && depth) {
      --depth;
    }
  }
  return deepest;
}

// Conversions of JSON values throw ffi::Error where they are of another kind.
ffi::Any At(const Object& object, const char* name) {
  if (!object.count(ffi::String(name))) throw std::runtime_error(std::string("it lacks \"") + name + "\"");
  return object.at(ffi::String(name));
}

bool Has(const Object& object, const char* name) { return object.count(ffi::String(name)); }

std::string Text(const ffi::Any& value) { return value.cast<ffi::String>(); }

std::string TextOr(const Object& object, const char* name) { return Has(object, name) ? Text(At(object, name)) : ""; }

std::vector<std::string> Words(const ffi::Any& value) {
  std::vector<std::string> found;
  for (const ffi::Any& item : value.cast<Array>()) found.push_back(Text(item));
  return found;
}

std::vector<int64_t> Counts(const ffi::Any& value, int64_t least) {
  std::vector<int64_t> found;
  for (const ffi::Any& item : value.cast<Array>()) {
    found.push_back(item.cast<int64_t>());
    if (found.back() < least) throw std::runtime_error("a number is too small");
  }
  return found;
}

size_t SizeOf(const std::string& dtype, const std::vector<int64_t>& shape, size_t first) {
  DLDataType type = ffi::StringToDLDataType(dtype);
  size_t size = (type.bits * type.lanes + 7) / 8;
  for (size_t axis = first; axis < shape.size(); ++axis) {
    if (__builtin_mul_overflow(size, static_cast<size_t>(shape[axis]), &size)) {
      throw std::runtime_error("a tensor is too large");
    }
  }
  return size;
}

std::vector<Tensor> Tensors(const ffi::Any& value) {
  std::vector<Tensor> found;
  for (const ffi::Any& item : value.cast<Array>()) {
    Object entry = item.cast<Object>();
    Tensor tensor{Text(At(entry, "name")), Text(At(entry, "dtype")), Counts(At(entry, "shape"), 0)};
    tensor.batched = Has(entry, "batched") && At(entry, "batched").cast<bool>();
    if (tensor.batched && tensor.shape.empty()) throw std::runtime_error("a batch has no axis");
    tensor.bytes = SizeOf(tensor.dtype, tensor.shape, tensor.batched);
    found.push_back(tensor);
  }
  return found;
}

void ReadWeights(const Object& weights, size_t room, Manifest* manifest) {
  for (const ffi::Any& item : At(weights, "tensors").cast<Array>()) {
    Object entry = item.cast<Object>();
    int64_t offset = At(entry, "offset").cast<int64_t>();
    Weight weight{static_cast<size_t>(offset), Text(At(entry, "dtype")), Counts(At(entry, "shape"), 0)};
    size_t size = SizeOf(weight.dtype, weight.shape, 0);
    if (offset < 0 || weight.offset % kAlignment || weight.offset > room || size > room - weight.offset) {
      throw std::runtime_error("weights lie outside of weights.bin");
    }
    manifest->weights.push_back(weight);
  }
  for (const auto& [name, indices] : At(weights, "functions").cast<Object>()) {
    std::vector<int64_t> found = Counts(indices, 0);
    for (int64_t index : found) {
      if (index >= static_cast<int64_t>(manifest->weights.size())) throw std::runtime_error("unknown weights");
    }
    manifest->functions[Text(name)] = found;
  }
}

Manifest Read(const Object& object, const Container& container) {
  Manifest manifest;
  Object target = At(object, "target").cast<Object>();
  manifest.target = Text(At(target, "name"));
  manifest.architecture = Text(At(target, "architecture"));
  manifest.features = Words(At(target, "features"));
  manifest.device = TextOr(target, "device");
  manifest.inputs = Tensors(At(object, "inputs"));
  manifest.outputs = Tensors(At(object, "outputs"));
  if (Has(object, "batch_sizes")) manifest.batch_sizes = Counts(At(object, "batch_sizes"), 1);
  auto batched = [](const Tensor& tensor) { return tensor.batched; };
  bool any = std::any_of(manifest.inputs.begin(), manifest.inputs.end(), batched);
  if (any == manifest.batch_sizes.empty()) throw std::runtime_error("batches have no sizes");
  auto weights = container.members().find("weights.bin");
  if (Has(object, "weights") != (weights != container.members().end())) {
    throw std::runtime_error("it has either weights.bin or its description, not both");
  }
  if (Has(object, "weights")) ReadWeights(At(object, "weights").cast<Object>(), weights->second.size, &manifest);
  return manifest;
}

void CheckVersion(const Object& object, const std::string& path) {
  if (!Has(object, "format") || Text(At(object, "format")) != "graphprune-artifact") {
    Refuse(path + " has a manifest but is not an artifact");
  }
  int64_t version = At(object, "format_version").cast<int64_t>();
  if (version == kFormatVersion) return;
  std::string numbers = " has artifact format " + std::to_string(version) + ", and this version of GraphPrune reads " +
                        std::to_string(kFormatVersion);
  if (version < kFormatVersion) Refuse(path + numbers + ": compile the model again");
  std::string made = Has(object, "tools") ? TextOr(At(object, "tools").cast<Object>(), "graphprune") + " " : "";
  Refuse(path + numbers + ": use graphprune " + made + "or newer");
}

void CheckMembers(const Object& object, const Container& container, const std::string& path) {
  const auto& members = container.members();
  Object listed = At(object, "members").cast<Object>();
  if (!Has(listed, "library.so")) throw std::runtime_error("it lists no library.so");
  for (const auto& [name, bytes] : members) {
    if (name != "manifest.json" && name != "manifest.sha256" && !listed.count(ffi::String(name))) {
      Refuse(path + " is damaged: it holds \"" + name + "\", which does not belong there" + kAdvice);
    }
  }
  for (const auto& [key, value] : listed) {
    const std::string name = Text(key);
    if (name != "library.so" && name != "weights.bin" && name != "plan.json") {
      throw std::runtime_error("it lists \"" + name + "\", which no artifact has");
    }
    Object entry = value.cast<Object>();
    auto found = members.find(name);
    if (found == members.end()) Refuse(path + " is damaged: it lacks " + name + kAdvice);
    if (static_cast<int64_t>(found->second.size) != At(entry, "bytes").cast<int64_t>()) {
      Refuse(path + " is damaged: the size of " + name + " is wrong" + kAdvice);
    }
  }
  container.Check();
  for (const auto& [key, value] : listed) {
    const std::string name = Text(key);
    const Bytes& bytes = members.at(name);
    if (Sha256(bytes.data, bytes.size) != Text(At(value.cast<Object>(), "sha256"))) {
      Refuse(path + " is damaged: the checksum of " + name + " does not match" + kAdvice);
    }
  }
}

}  // namespace

Manifest ReadManifest(const Container& container, const std::string& path) {
  auto found = container.members().find("manifest.json");
  if (found == container.members().end()) Refuse(path + " is not an artifact: it has no manifest.json");
  const Bytes& text = found->second;
  if (text.size > kLargestManifest || Depth(text) > kDeepest) {
    Refuse(path + " is not an artifact: its manifest is too large");
  }
  try {
    ffi::String problem;
    ffi::Any parsed = ffi::json::Parse(ffi::String(text.data, text.size), &problem);
    if (!problem.empty()) throw std::runtime_error("it is not JSON: " + std::string(problem));
    Object object = parsed.cast<Object>();
    CheckVersion(object, path);
    auto digest = container.members().find("manifest.sha256");
    const std::string wanted = Sha256(text.data, text.size) + "  manifest.json\n";
    if (digest == container.members().end() || std::string(digest->second.data, digest->second.size) != wanted) {
      Refuse(path + " is damaged: the checksum of manifest.json does not match" + kAdvice);
    }
    CheckMembers(object, container, path);
    return Read(object, container);
  } catch (const Error&) {
    throw;
  } catch (const ffi::Error& error) {
    Refuse(path + " is not a valid artifact: its manifest has something of the wrong kind: " + error.message() +
           kAdvice);
  } catch (const std::runtime_error& error) {
    Refuse(path + " is not a valid artifact: its manifest is wrong: " + error.what() + kAdvice);
  }
}

}  // namespace graphprune
