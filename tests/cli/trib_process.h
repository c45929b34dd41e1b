// The built `trib`, run to its end or until it is interrupted, with what it printed.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/common/temporary_directory.h"

namespace trib::cli {

inline const std::string trib_program = TRIBUTARY_BINARY_DIR "/bin/trib";
inline const std::filesystem::path source_directory = TRIBUTARY_SOURCE_DIR;
inline const std::string base_model = TRIBUTARY_SOURCE_DIR "/base/roberta-mini-imdb";

inline std::string text_of_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

struct ProgramResult {
  int exit_code = -1;  // 128 + signal if one ended it
  std::string out, err;
};

// A started program; its output goes to files, so that it never waits for its reader.
class RunningProgram {
 public:
  explicit RunningProgram(std::vector<std::string> arguments, const std::filesystem::path& working_directory = "/") {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) throw std::runtime_error("cannot fork");
    if (pid_ == 0) {
      ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
      ::dup2(::open(out_path().c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
      ::dup2(::open(err_path().c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
      ::unsetenv("TRIBUTARY_SERVER");
      if (::chdir(working_directory.c_str()) == 0) ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;
  ~RunningProgram() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void interrupt() const {
    if (pid_ > 0) ::kill(pid_, SIGINT);
  }

  // Whether standard error says `text` within `patience`.
  bool says(const std::string& text, std::chrono::seconds patience) const {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < deadline) {
      if (text_of_file(err_path()).find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  ProgramResult wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text_of_file(out_path()),
            text_of_file(err_path())};
  }

 private:
  std::filesystem::path out_path() const { return directory_ / "stdout"; }
  std::filesystem::path err_path() const { return directory_ / "stderr"; }

  test::TemporaryDirectory directory_;
  pid_t pid_ = -1;
};

// `trib` with these arguments, in `working_directory`.
inline ProgramResult run_trib(std::vector<std::string> arguments,
                              const std::filesystem::path& working_directory = "/") {
  arguments.insert(arguments.begin(), trib_program);
  return RunningProgram(std::move(arguments), working_directory).wait();
}

// Standard output as the one JSON object that it must be: one line, and nothing after it.
inline boost::json::object one_json_object(const std::string& out) {
  EXPECT_EQ(out.find('\n'), out.size() - 1) << out;
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(out, error);
  if (error || !value.is_object()) throw std::runtime_error("not a JSON object: " + out);
  return value.as_object();
}

// A job over CLINC150's domains that is small enough for a test: one round of one step.
inline std::string small_job() {
  const std::string data = (source_directory / "datasets/clinc150").string();
  return R"([job]
name = "small"
task = "lora_text"
rounds = 1

[selection]
minimum_clients = 2

[privacy]
epsilon = 6.0
delta = 1e-5

[model]
base = "roberta-mini-imdb"
labels = ["banking", "credit_cards", "kitchen_and_dining", "home", "auto_and_commute", "travel", "utility", "work",
          "small_talk", "meta"]

[training]
batch_size = 64
local_steps = 1

[evaluation]
file = ")" +
         data +
         R"(/test.tsv"
limit = 20

[simulate]
train = ")" +
         data + R"(/valid.tsv"
sites = 2
)";
}

}  // namespace trib::cli
