// What tests of the ledger and of sessions share.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>

#include "common/clock.h"
#include "privacy/ledger.h"

namespace trib::privacy {

// A directory of one's own, removed afterwards. In memory where the system offers that: thousands of fsyncs would
// otherwise wait for a disk, and a killed process loses nothing that it has written.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const std::filesystem::path memory = "/dev/shm";
    const bool in_memory = ::access(memory.c_str(), W_OK) == 0;
    std::string name =
        ((in_memory ? memory : std::filesystem::temp_directory_path()) / "tributary-privacy-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline Charge charge_of(const std::string& job, std::int64_t round, const std::string& data_set = "messages") {
  Charge charge;
  charge.job = job;
  charge.round = round;
  charge.data_set = data_set;
  charge.declared_records = 5000;
  charge.target_delta = 1e-5;
  charge.mechanism = {MechanismKind::poisson_subsampled_gaussian, 0.02, 1.1, 0.5, 10};
  return charge;
}

inline Charge non_private_charge(const std::string& job, std::int64_t round) {
  Charge charge = charge_of(job, round);
  charge.mechanism = {MechanismKind::none, 0.02, 0.0, 0.0, 10};
  return charge;
}

// The site of these tests; one key for the whole process, and for its children.
inline const LedgerOwner& owner() {
  static const LedgerOwner site{"hospital", throwaway_signer()};
  return site;
}

inline std::vector<Budget> budget_of(double epsilon) {
  return {{"messages", epsilon, 1e-5}};
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void spit(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Runs `body` in a forked child; returns the status of waitpid(). The child never returns into the test runner.
inline int in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

// The same with TRIBUTARY_FAILPOINT set; returns whether the failpoint was reached, that is whether it was killed.
inline bool killed_at(const std::string& failpoint, const std::function<void()>& body) {
  const int status = in_child([&] {
    ::setenv("TRIBUTARY_FAILPOINT", failpoint.c_str(), 1);
    body();
  });
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

}  // namespace trib::privacy
