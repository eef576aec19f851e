// What the processor of this machine is and can do.
#pragma once

#include <string>
#include <vector>

namespace graphprune {

// Which of an architecture (as `uname -m` says) and processor flags (as /proc/cpuinfo has them) this machine lacks.
std::vector<std::string> MissingHere(const std::string& architecture, const std::vector<std::string>& features);

// How many processors this process may use.
std::vector<int> Processors();

}  // namespace graphprune
