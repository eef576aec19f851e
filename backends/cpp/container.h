// The named members of an artifact: one file of the single shape that container.py writes, or a folder.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace graphprune {

struct Bytes {
  const char* data = nullptr;
  size_t size = 0;
};

// A file in memory: a private mapping, whose pages are shared with everyone who reads the file.
class Mapping {
 public:
  // `folder` is the handle of the folder that `path` starts from; links are followed only if `links`.
  Mapping(int folder, const std::string& path, bool links);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  Bytes bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

class Container {
 public:
  // Throws Error for a path that cannot be read, and for a file that is no archive.
  explicit Container(const std::string& path);
  const std::map<std::string, Bytes>& members() const { return members_; }
  // Throws Error unless every byte outside of the members is as it was written.
  void Check() const;

 private:
  struct Entry {
    std::string name;
    size_t size, crc, place;
  };
  void ReadFile(const std::string& path);
  void ReadFolder(const std::string& path);
  [[noreturn]] void Damaged(const std::string& what) const;

  std::string path_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, Bytes> members_;
  std::vector<Entry> entries_;  // of a file
  size_t directory_ = 0;
};

}  // namespace graphprune
