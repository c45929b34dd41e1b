#include "common/files.h"

#include <fcntl.h>
#include <spdlog/fmt/fmt.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <system_error>

namespace trib {
namespace {

std::string in_quotes(const std::filesystem::path& path) {
  return fmt::format("'{}'", path.native());
}

std::filesystem::path directory_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// A file that is removed on destruction unless it was renamed to its final name.
class TemporaryFile {
 public:
  static Result<TemporaryFile> beside(const std::filesystem::path& path) {
    std::string name = path.string() + ".tmp-XXXXXX";
    const int fd = ::mkostemp(name.data(), O_CLOEXEC);
    if (fd < 0) return error_from_errno(errno, "cannot create a temporary file beside " + in_quotes(path));
    return TemporaryFile(FileDescriptor(fd), std::move(name));
  }
  TemporaryFile(TemporaryFile&& other) noexcept
      : fd_(std::move(other.fd_)), name_(std::exchange(other.name_, std::string())) {}
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  ~TemporaryFile() {
    if (!name_.empty()) ::unlink(name_.c_str());
  }

  int fd() const { return fd_.get(); }

  Status rename_to(const std::filesystem::path& path) {
    if (::rename(name_.c_str(), path.c_str()) != 0) {
      return error_from_errno(errno, "cannot rename " + in_quotes(name_) + " to " + in_quotes(path));
    }
    name_.clear();
    return {};
  }

 private:
  TemporaryFile(FileDescriptor fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  FileDescriptor fd_;
  std::string name_;
};

// "" where the file does not hold a process id (its owner may be between locking and writing it).
std::string owner_of_lock(int fd) {
  char text[32];
  const ssize_t length = ::pread(fd, text, sizeof text, 0);
  long process = 0;
  if (length <= 0 || std::from_chars(text, text + length, process).ec != std::errc{}) return "";
  return " (process " + std::to_string(process) + ")";
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (valid()) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (valid()) ::close(fd_);
}

Error error_from_errno(int error_number, std::string_view what) {
  const std::string message = std::string(what) + ": " + std::generic_category().message(error_number);
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return {Errc::no_space, message};
    case ENOENT:
      return {Errc::not_found, message};
    case EACCES:
      return {Errc::permission_denied, message};
    default:
      return {Errc::io_error, message};
  }
}

Result<std::string> read_file(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return error_from_errno(errno, "cannot open " + in_quotes(path));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return error_from_errno(errno, "cannot read " + in_quotes(path));

  // The size is a hint only: a pipe or a file under /proc reports none, and a log may grow meanwhile.
  constexpr std::size_t smallest_read = 4096;
  std::string content;
  std::size_t length = 0;
  content.resize(static_cast<std::size_t>(status.st_size) + 1);
  while (true) {
    if (length == content.size()) content.resize(content.size() + std::max(content.size(), smallest_read));
    const ssize_t count = ::read(file.get(), content.data() + length, content.size() - length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error_from_errno(errno, "cannot read " + in_quotes(path));
    if (count == 0) break;
    length += static_cast<std::size_t>(count);
  }
  content.resize(length);
  return content;
}

Status write_file_durably(const std::filesystem::path& path, std::span<const std::span<const std::byte>> pieces,
                          unsigned mode) {
  const std::string what = "cannot write " + in_quotes(path);
  TRIB_ASSIGN(TemporaryFile file, TemporaryFile::beside(path));
  if (::fchmod(file.fd(), static_cast<mode_t>(mode)) != 0) return error_from_errno(errno, what);
  for (const auto piece : pieces) TRIB_TRY(write_all(file.fd(), piece, what));
  TRIB_TRY(fsync_file(file.fd(), what));
  TRIB_TRY(file.rename_to(path));
  return fsync_directory(directory_of(path));
}

Status write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes, unsigned mode) {
  return write_file_durably(path, std::span(&bytes, 1), mode);
}

Status write_file_durably(const std::filesystem::path& path, std::string_view text, unsigned mode) {
  return write_file_durably(path, std::as_bytes(std::span(text)), mode);
}

Status write_all(int fd, std::span<const std::byte> bytes, std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return error_from_errno(errno, what);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Status fsync_file(int fd, std::string_view what) {
  // After a failed fsync the kernel may drop the dirty pages, so a second fsync proves nothing: only EINTR is retried.
  while (::fsync(fd) != 0) {
    if (errno != EINTR) return error_from_errno(errno, what);
  }
  return {};
}

Status fsync_directory(const std::filesystem::path& directory) {
  const std::string what = "cannot flush the directory " + in_quotes(directory);
  const FileDescriptor file(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) return error_from_errno(errno, what);
  return fsync_file(file.get(), what);
}

Status make_directories(const std::filesystem::path& directory, unsigned mode) {
  std::filesystem::path prefix;
  for (const auto& component : directory) {
    prefix /= component;
    if (component.empty()) continue;  // a trailing slash
    if (::mkdir(prefix.c_str(), static_cast<mode_t>(mode)) == 0) {
      TRIB_TRY(fsync_directory(directory_of(prefix)));  // or a crash may lose the directory with all that is in it
      continue;
    }
    const int error_number = errno;
    std::error_code ignored;
    if (std::filesystem::is_directory(prefix, ignored)) continue;
    return error_from_errno(error_number == EEXIST ? ENOTDIR : error_number,
                            "cannot create the directory " + in_quotes(prefix));
  }
  return {};
}

Result<FileLock> FileLock::acquire(const std::filesystem::path& path) {
  const std::string what = "cannot lock " + in_quotes(path);
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.valid()) return error_from_errno(errno, what);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return error_from_errno(errno, what);
    return Error{Errc::unavailable, what + ": another process" + owner_of_lock(file.get()) +
                                        " holds it; stop that process or use another directory"};
  }
  const std::string process = std::to_string(::getpid()) + "\n";
  if (::ftruncate(file.get(), 0) != 0) return error_from_errno(errno, what);
  TRIB_TRY(write_all(file.get(), std::as_bytes(std::span(process)), what));
  return FileLock(std::move(file));
}

}  // namespace trib
