#include "container.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "error.h"

namespace graphprune {
namespace {

constexpr size_t kAlignment = 64, kLocal = 30, kCentral = 46, kEnd = 22, kPadding = 6;
constexpr size_t kLongestDirectory = 1 << 16;

// Numbers in archives have their lowest byte first.
size_t Number(const char* at, int bytes) {
  size_t value = 0;
  for (int i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(at[i]);
  return value;
}

std::string Little(std::initializer_list<std::pair<size_t, int>> numbers) {
  std::string text;
  for (auto [value, bytes] : numbers) {
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 255);
  }
  return text;
}

// What every member has in common: version, flags, method, time, date; then its checksum, sizes and the name's length.
std::string Fields(const std::string& name, size_t size, size_t crc) {
  return Little({{10, 2}, {0, 2}, {0, 2}, {0, 2}, {33, 2}, {crc, 4}, {size, 4}, {size, 4}, {name.size(), 2}});
}

std::string LocalHeader(const std::string& name, size_t size, size_t crc, size_t place) {
  size_t missing = (kAlignment - (place + kLocal + name.size()) % kAlignment) % kAlignment;
  if (missing && missing < kPadding) missing += kAlignment;
  std::string header = "PK\x03\x04" + Fields(name, size, crc) + Little({{missing, 2}}) + name;
  if (missing) {
    header += Little({{0xD935, 2}, {missing - 4, 2}, {kAlignment, 2}}) + std::string(missing - kPadding, '\0');
  }
  return header;
}

std::string CentralHeader(const std::string& name, size_t size, size_t crc, size_t place) {
  return "PK\x01\x02" + Little({{3 << 8 | 20, 2}}) + Fields(name, size, crc) +
         Little({{0, 2}, {0, 2}, {0, 2}, {0, 2}, {size_t{0100644} << 16, 4}, {place, 4}}) + name;
}

// Names end up in messages: nothing in them may confuse a terminal.
bool IsPlain(const std::string& name) {
  return std::all_of(name.begin(), name.end(), [](char letter) { return letter > ' ' && letter < 127; });
}

std::string Reason() { return std::strerror(errno); }

struct Handle {
  explicit Handle(int number) : number(number) {}
  ~Handle() {
    if (number >= 0) close(number);
  }
  Handle(const Handle&) = delete;
  int number;
};

}  // namespace

Mapping::Mapping(int folder, const std::string& path, bool links) {
  Handle file(openat(folder, path.c_str(), O_RDONLY | O_CLOEXEC | (links ? 0 : O_NOFOLLOW)));
  struct stat found;
  if (file.number < 0 || fstat(file.number, &found) != 0) {
    throw Error(GP_FILE_ERROR, path + " cannot be read: " + Reason());
  }
  if (!S_ISREG(found.st_mode)) throw Error(GP_FILE_ERROR, path + " is not a plain file");
  if (found.st_size == 0) return;
  size_t size = static_cast<size_t>(found.st_size);
  void* at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (at == MAP_FAILED) throw Error(GP_FILE_ERROR, path + " cannot be mapped: " + Reason());
  bytes_ = {static_cast<const char*>(at), size};
}

Mapping::~Mapping() {
  if (bytes_.size) munmap(const_cast<char*>(bytes_.data), bytes_.size);
}

Container::Container(const std::string& path) : path_(path) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) throw Error(GP_FILE_ERROR, path + " cannot be read: " + Reason());
  if (S_ISDIR(found.st_mode)) {
    ReadFolder(path);
  } else if (S_ISREG(found.st_mode)) {
    ReadFile(path);
  } else {  // opening a pipe would wait for somebody to write
    throw Error(GP_FILE_ERROR, path + " is not a plain file");
  }
}

void Container::Damaged(const std::string& what) const {
  throw Error(GP_FILE_ERROR,
              path_ + " is not a complete artifact: " + what + "; copy it again or compile the model again");
}

void Container::ReadFile(const std::string& path) {
  mappings_.push_back(std::make_unique<Mapping>(AT_FDCWD, path, true));
  const auto [data, length] = mappings_.back()->bytes();
  if (length < kEnd || std::memcmp(data + length - kEnd, "PK\x05\x06", 4) != 0) Damaged("it does not end like one");
  const char* last = data + length - kEnd;
  size_t size = Number(last + 12, 4), end = Number(last + 16, 4);
  if (Number(last + 20, 2) || size > kLongestDirectory || end + size + kEnd != length) {
    Damaged("its directory does not fit");
  }
  for (size_t at = end; at < end + size;) {
    if (end + size - at < kCentral || std::memcmp(data + at, "PK\x01\x02", 4) != 0) Damaged("its directory is broken");
    const char* entry = data + at;
    size_t letters = Number(entry + 28, 2), more = Number(entry + 30, 2) + Number(entry + 32, 2);
    if (end + size - at < kCentral + letters + more) Damaged("its directory is broken");
    Entry found{{entry + kCentral, letters}, Number(entry + 24, 4), Number(entry + 16, 4), Number(entry + 42, 4)};
    at += kCentral + letters + more;
    if (!IsPlain(found.name)) Damaged("it has a member whose name no artifact has");
    if (found.place + kLocal > end) Damaged("a member is not where it should be");
    const char* header = data + found.place;
    size_t start = found.place + kLocal + Number(header + 26, 2) + Number(header + 28, 2);
    if (std::memcmp(header, "PK\x03\x04", 4) != 0 || start + found.size > end) Damaged(found.name + " is cut off");
    if (!members_.emplace(found.name, Bytes{data + start, found.size}).second) Damaged("it has two of " + found.name);
    entries_.push_back(found);
  }
  directory_ = end;
}

void Container::ReadFolder(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (!folder) throw Error(GP_FILE_ERROR, path + " cannot be read: " + Reason());
  while (const dirent* entry = readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (!IsPlain(name)) Damaged("it holds a file whose name no artifact has");
    mappings_.push_back(std::make_unique<Mapping>(dirfd(folder.get()), name, false));
    members_.emplace(name, mappings_.back()->bytes());
  }
}

void Container::Check() const {
  if (entries_.empty()) return;  // a folder: nothing lies between files
  const Bytes file = mappings_.front()->bytes();
  size_t place = 0;
  std::string tail;
  for (const Entry& entry : entries_) {
    const std::string header = LocalHeader(entry.name, entry.size, entry.crc, place);
    bool same = entry.place == place && place + header.size() <= directory_ &&
                std::memcmp(file.data + place, header.data(), header.size()) == 0;
    if (!same) Damaged("the header of " + entry.name + " is not as it was written");
    tail += CentralHeader(entry.name, entry.size, entry.crc, place);
    place += header.size() + entry.size;
  }
  size_t size = tail.size(), count = entries_.size();
  tail += "PK\x05\x06" + Little({{0, 2}, {0, 2}, {count, 2}, {count, 2}, {size, 4}, {place, 4}, {0, 2}});
  if (place != directory_ || place + tail.size() != file.size ||
      std::memcmp(file.data + place, tail.data(), tail.size()) != 0) {
    Damaged("its directory is not as it was written");
  }
}

}  // namespace graphprune
