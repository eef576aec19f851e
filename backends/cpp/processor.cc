#include "processor.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <set>
#if defined(__aarch64__)
#include <sys/auxv.h>
#else
#include <fstream>
#include <sstream>
#endif

namespace graphprune {
namespace {

std::string Architecture() {
  // Of this program, not of the kernel: a 32-bit program may run on a 64-bit machine.
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  utsname name;
  return uname(&name) == 0 ? name.machine : "";
#endif
}

#if defined(__aarch64__)
// Names and bits of the kernel's interface (Documentation/arch/arm64/elf_hwcaps.rst, uapi/asm/hwcap.h).
struct Flag {
  const char* name;
  unsigned long type, bit;
};
constexpr Flag kFlags[] = {
    {"fp", AT_HWCAP, 0},       {"asimd", AT_HWCAP, 1},     {"aes", AT_HWCAP, 3},      {"pmull", AT_HWCAP, 4},
    {"sha1", AT_HWCAP, 5},     {"sha2", AT_HWCAP, 6},      {"crc32", AT_HWCAP, 7},    {"atomics", AT_HWCAP, 8},
    {"fphp", AT_HWCAP, 9},     {"asimdhp", AT_HWCAP, 10},  {"cpuid", AT_HWCAP, 11},   {"asimdrdm", AT_HWCAP, 12},
    {"jscvt", AT_HWCAP, 13},   {"fcma", AT_HWCAP, 14},     {"lrcpc", AT_HWCAP, 15},   {"dcpop", AT_HWCAP, 16},
    {"sha3", AT_HWCAP, 17},    {"asimddp", AT_HWCAP, 20},  {"sha512", AT_HWCAP, 21},  {"sve", AT_HWCAP, 22},
    {"asimdfhm", AT_HWCAP, 23}, {"sve2", AT_HWCAP2, 1},    {"svei8mm", AT_HWCAP2, 9}, {"svebf16", AT_HWCAP2, 12},
    {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},
};

std::set<std::string> Features() {
  std::set<std::string> found;
  for (const Flag& flag : kFlags) {
    if (getauxval(flag.type) >> flag.bit & 1) found.insert(flag.name);
  }
  return found;
}
#else
std::set<std::string> Features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::set<std::string> found;
    for (std::string word; words >> word;) found.insert(word);
    return found;
  }
  return {};
}
#endif

}  // namespace

std::vector<std::string> MissingHere(const std::string& architecture, const std::vector<std::string>& features) {
  if (architecture != Architecture()) return {architecture + " instructions"};
  const std::set<std::string> here = Features();
  std::vector<std::string> missing;
  std::copy_if(features.begin(), features.end(), std::back_inserter(missing),
               [&](const std::string& feature) { return !here.count(feature); });
  return missing;
}

std::vector<int> Processors() {
  std::vector<int> found;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (int number = 0; number < CPU_SETSIZE; ++number) {
      if (CPU_ISSET(number, &allowed)) found.push_back(number);
    }
  }
  if (found.empty()) found.push_back(0);
  return found;
}

}  // namespace graphprune
