// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <string>

namespace graphprune {

// The digest as 64 hexadecimal digits.
std::string Sha256(const void* data, size_t size);

}  // namespace graphprune
