// Places where a test may kill the process, to prove that what is on disk is enough to go on from.
//
// TRIB_FAILPOINT("ledger.after_write") does nothing unless the environment variable TRIBUTARY_FAILPOINT names it:
// TRIBUTARY_FAILPOINT=ledger.after_write kills the process (SIGKILL: no destructor, no flush) the first time it is
// reached, TRIBUTARY_FAILPOINT=ledger.after_write:3 the third time. Built with -DTRIBUTARY_FAILPOINTS=OFF the macro is
// empty. Names are "module.where", after what has just happened.
#pragma once

#if defined(TRIBUTARY_FAILPOINTS)
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <string_view>

namespace trib::detail {

// Read anew each time: a forked child sets the variable after its parent may have passed here.
inline void failpoint(std::string_view name) {
  const char* wanted = std::getenv("TRIBUTARY_FAILPOINT");
  if (wanted == nullptr) return;
  std::string_view target = wanted;
  int count = 1;
  if (const auto colon = target.rfind(':'); colon != std::string_view::npos) {
    const std::string_view digits = target.substr(colon + 1);
    std::from_chars(digits.data(), digits.data() + digits.size(), count);
    target = target.substr(0, colon);
  }
  if (target != name) return;
  static std::atomic<int> reached{0};  // of the one failpoint that the variable names
  if (reached.fetch_add(1) + 1 == count) std::raise(SIGKILL);
}

}  // namespace trib::detail

#define TRIB_FAILPOINT(name) ::trib::detail::failpoint(name)
#else
#define TRIB_FAILPOINT(name) static_cast<void>(0)
#endif
