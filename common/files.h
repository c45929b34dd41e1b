// Files that survive a crash, and the few file operations that everything here shares.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace trib {

// An open file descriptor, closed on destruction.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Errno as an Error: ENOSPC and EDQUOT become Errc::no_space, ENOENT not_found, EACCES permission_denied, the rest
// io_error. `what` says what was being done, with the path.
Error error_from_errno(int error_number, std::string_view what);

Result<std::string> read_file(const std::filesystem::path& path);

// Writes all of `bytes` so that after a crash the path holds either the old content or the new, never a mixture:
// temporary file beside it, fsync, rename, fsync of the directory. `mode` is the file's permission bits.
Status write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes, unsigned mode = 0644);
Status write_file_durably(const std::filesystem::path& path, std::string_view text, unsigned mode = 0644);
// The same for content in several pieces, written one after the other.
Status write_file_durably(const std::filesystem::path& path, std::span<const std::span<const std::byte>> pieces,
                          unsigned mode = 0644);

// Writes every byte to `fd`, going on after short writes and EINTR.
Status write_all(int fd, std::span<const std::byte> bytes, std::string_view what);
Status fsync_file(int fd, std::string_view what);
Status fsync_directory(const std::filesystem::path& directory);
// Creates the directory and its missing parents, each on disk before its children.
Status make_directories(const std::filesystem::path& directory, unsigned mode = 0755);

// An exclusive advisory lock (flock) on a file that is created if absent; released on destruction or when the process
// dies. Errc::unavailable, with the owner's process id where it is known, if another process holds it.
class FileLock {
 public:
  static Result<FileLock> acquire(const std::filesystem::path& path);

 private:
  explicit FileLock(FileDescriptor fd) : fd_(std::move(fd)) {}
  FileDescriptor fd_;
};

}  // namespace trib
