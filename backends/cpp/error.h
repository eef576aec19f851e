// What is thrown inside, and becomes a status and a message at the border.
#pragma once

#include <stdexcept>
#include <string>

#include "graphprune.h"

namespace graphprune {

struct Error : std::runtime_error {
  Error(gp_status status, const std::string& message) : std::runtime_error(message), status(status) {}
  gp_status status;
};

}  // namespace graphprune
