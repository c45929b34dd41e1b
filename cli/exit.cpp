#include <cstdio>

#include "cli/commands.h"

namespace trib::cli {

ExitCode exit_code_for(Errc code) {
  switch (code) {
    case Errc::invalid_argument:
    case Errc::not_found:
    case Errc::already_exists:
    case Errc::unsupported:
      return exit_usage;
    case Errc::unavailable:
    case Errc::deadline_exceeded:
    case Errc::unauthenticated:
      return exit_unavailable;
    case Errc::over_budget:
    case Errc::permission_denied:
      return exit_refused;
    case Errc::cancelled:
      return exit_interrupted;
    default:
      return exit_failure;
  }
}

void Exit::report(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "trib: %s\n", status.error().message.c_str());
  code_ = exit_code_for(status.error().code);
}

}  // namespace trib::cli
