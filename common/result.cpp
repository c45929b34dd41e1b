#include "common/result.h"

namespace trib {

std::string_view to_string(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
      return "invalid argument";
    case Errc::not_found:
      return "not found";
    case Errc::already_exists:
      return "already exists";
    case Errc::io_error:
      return "I/O error";
    case Errc::no_space:
      return "no space";
    case Errc::corrupt:
      return "corrupt";
    case Errc::protocol_error:
      return "protocol error";
    case Errc::unauthenticated:
      return "unauthenticated";
    case Errc::permission_denied:
      return "permission denied";
    case Errc::limit_exceeded:
      return "limit exceeded";
    case Errc::over_budget:
      return "over budget";
    case Errc::unavailable:
      return "unavailable";
    case Errc::deadline_exceeded:
      return "deadline exceeded";
    case Errc::cancelled:
      return "cancelled";
    case Errc::unsupported:
      return "unsupported";
    case Errc::internal:
      return "internal error";
  }
  return "unknown";
}

}  // namespace trib
