// Child processes of `trib demo`: started, watched, and gone when the demo is.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"

namespace trib::cli {

// A running program with its output in a log file. The child dies with this process, however that ends.
class ChildProcess {
 public:
  static Result<ChildProcess> start(const std::vector<std::string>& arguments, const std::filesystem::path& log_file);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // stop()

  // Sends a signal to it if it still runs; returns whether it did. (The id of a process that is gone is nobody's, or
  // another's: so nobody is given it.)
  bool signal(int number);
  const std::string& program() const { return program_; }
  const std::filesystem::path& log_file() const { return log_file_; }
  // The exit status if it has ended (as waitpid's: 128 + signal for a killed one), without waiting.
  std::optional<int> poll();
  // SIGTERM, then SIGKILL after `grace`. Returns the exit status.
  int stop(std::chrono::milliseconds grace = std::chrono::seconds(10));

 private:
  ChildProcess() = default;
  pid_t pid_ = -1;
  std::optional<int> status_;
  std::string program_;
  std::filesystem::path log_file_;
};

// Runs a program to its end; its standard output is returned. On a non-zero exit the error carries its standard error.
Result<std::string> run_program(const std::vector<std::string>& arguments);

// The last lines of a text file, for messages about a daemon that died.
std::string tail_of_file(const std::filesystem::path& path, int lines);

// A TCP port on the loopback interface that nothing listens on at this moment.
Result<int> free_loopback_port();

}  // namespace trib::cli
