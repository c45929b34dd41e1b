#pragma once

namespace trib {

inline constexpr const char* version = "0.1.0";

}  // namespace trib
