#include "cli/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <fstream>
#include <thread>

#include "common/files.h"

namespace trib::cli {
namespace {

int exit_code(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

std::vector<char*> argument_pointers(const std::vector<std::string>& arguments) {
  std::vector<char*> pointers;
  for (const auto& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments,
                                         const std::filesystem::path& log_file) {
  const FileDescriptor log(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log.valid()) return error_from_errno(errno, "cannot open " + log_file.string());
  auto pointers = argument_pointers(arguments);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return error_from_errno(errno, "cannot start " + arguments.front());
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);  // the parent died before the line above
    setpgid(0, 0);                      // Ctrl-C is for the demo, which then stops its daemons in order
    const int null = ::open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(log.get(), STDOUT_FILENO);
    dup2(log.get(), STDERR_FILENO);
    execv(pointers[0], pointers.data());
    _exit(127);
  }
  ChildProcess child;
  child.pid_ = pid;
  child.program_ = std::filesystem::path(arguments.front()).filename();
  child.log_file_ = log_file;
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      status_(other.status_),
      program_(std::move(other.program_)),
      log_file_(std::move(other.log_file_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    stop();
    pid_ = std::exchange(other.pid_, -1);
    status_ = other.status_;
    program_ = std::move(other.program_);
    log_file_ = std::move(other.log_file_);
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  stop();
}

std::optional<int> ChildProcess::poll() {
  if (pid_ < 0 || status_) return status_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) status_ = exit_code(status);
  return status_;
}

bool ChildProcess::signal(int number) {
  return pid_ > 0 && !poll() && kill(pid_, number) == 0;
}

int ChildProcess::stop(std::chrono::milliseconds grace) {
  if (pid_ < 0) return status_.value_or(0);
  const auto deadline = std::chrono::steady_clock::now() + grace;
  signal(SIGTERM);
  while (!poll() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  if (signal(SIGKILL)) {
    int status = 0;
    if (waitpid(pid_, &status, 0) == pid_) status_ = exit_code(status);
  }
  pid_ = -1;
  return status_.value_or(0);
}

Result<std::string> run_program(const std::vector<std::string>& arguments) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0) return error_from_errno(errno, "cannot make a pipe");
  const FileDescriptor out_read(out[0]);
  FileDescriptor out_write(out[1]);
  if (pipe2(err, O_CLOEXEC) != 0) return error_from_errno(errno, "cannot make a pipe");
  const FileDescriptor err_read(err[0]);
  FileDescriptor err_write(err[1]);
  auto pointers = argument_pointers(arguments);
  const pid_t pid = fork();
  if (pid < 0) return error_from_errno(errno, "cannot start " + arguments.front());
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    dup2(out_write.get(), STDOUT_FILENO);
    dup2(err_write.get(), STDERR_FILENO);
    execv(pointers[0], pointers.data());
    _exit(127);
  }
  out_write = FileDescriptor();
  err_write = FileDescriptor();
  std::string text[2];
  pollfd waiting[2] = {{out_read.get(), POLLIN, 0}, {err_read.get(), POLLIN, 0}};
  int open_count = 2;
  while (open_count > 0) {
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) break;
    for (int i = 0; i < 2; ++i) {
      if (waiting[i].fd < 0 || waiting[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(waiting[i].fd, buffer, sizeof buffer);
      if (count > 0) {
        text[i].append(buffer, static_cast<std::size_t>(count));
      } else if (count == 0 || errno != EINTR) {
        waiting[i].fd = -1;
        --open_count;
      }
    }
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (exit_code(status) != 0) {
    return Error{Errc::unavailable, std::filesystem::path(arguments.front()).filename().string() + " " +
                                        (arguments.size() > 1 ? arguments[1] : "") + " failed (exit " +
                                        std::to_string(exit_code(status)) + "): " + text[1]};
  }
  return text[0];
}

std::string tail_of_file(const std::filesystem::path& path, int lines) {
  std::ifstream in(path);
  std::deque<std::string> last;
  for (std::string line; std::getline(in, line);) {
    last.push_back(line);
    if (static_cast<int>(last.size()) > lines) last.pop_front();
  }
  std::string out;
  for (const auto& line : last) out += "    " + line + "\n";
  return out;
}

Result<int> free_loopback_port() {
  const FileDescriptor fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return error_from_errno(errno, "cannot find a free port on 127.0.0.1");
  }
  return ntohs(address.sin_port);
}

}  // namespace trib::cli
