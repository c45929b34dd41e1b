#include "common/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/common/temporary_directory.h"

namespace trib {
namespace {

using test::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

unsigned mode_of(const std::filesystem::path& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return status.st_mode & 07777;
}

// No file may grow past `bytes` while this exists: the nearest thing to a disk that fills up during a write.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : previous_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &previous_);
    const rlimit limit{bytes, previous_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &previous_);
    std::signal(SIGXFSZ, previous_handler_);
  }

 private:
  rlimit previous_{};
  void (*previous_handler_)(int);
};

TEST(ErrorFromErrno, TellsTheKindsApartThatCallersActOn) {
  EXPECT_EQ(error_from_errno(ENOSPC, "x").code, Errc::no_space);
  EXPECT_EQ(error_from_errno(EDQUOT, "x").code, Errc::no_space);
  EXPECT_EQ(error_from_errno(ENOENT, "x").code, Errc::not_found);
  EXPECT_EQ(error_from_errno(EACCES, "x").code, Errc::permission_denied);
  EXPECT_EQ(error_from_errno(EIO, "x").code, Errc::io_error);
  EXPECT_EQ(error_from_errno(ENOSPC, "cannot write 'a'").message, "cannot write 'a': No space left on device");
}

TEST(FileDescriptor, ClosesWhatItHeldWhenItTakesAnother) {
  FileDescriptor first(::open("/dev/null", O_RDONLY));
  const int first_number = first.get();
  FileDescriptor second(::open("/dev/null", O_RDONLY));
  const int second_number = second.get();
  first = std::move(second);
  EXPECT_EQ(first.get(), second_number);
  EXPECT_EQ(::fcntl(first_number, F_GETFD), -1);
  EXPECT_NE(::fcntl(second_number, F_GETFD), -1);
}

TEST(ReadFile, ReadsEmptyAndLargeFiles) {
  const TemporaryDirectory directory;
  const std::string large(1'000'003, 'z');
  std::ofstream(directory / "empty").flush();
  std::ofstream(directory / "large") << large;
  EXPECT_EQ(read_file(directory / "empty").value(), "");
  EXPECT_EQ(read_file(directory / "large").value(), large);
}

TEST(ReadFile, ReadsFilesThatDoNotKnowTheirSize) {
  EXPECT_THAT(read_file("/proc/self/status").value(), HasSubstr("Pid:\t" + std::to_string(::getpid())));
}

TEST(ReadFile, NamesWhatItCannotRead) {
  const TemporaryDirectory directory;
  const auto missing = read_file(directory / "missing");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_THAT(missing.error().message, HasSubstr((directory / "missing").string()));
  EXPECT_EQ(read_file(directory.path()).error().code, Errc::io_error);
}

TEST(WriteFileDurably, ReplacesTheContentAndLeavesNothingElse) {
  const TemporaryDirectory directory;
  write_file_durably(directory / "state", "a long first version").value();
  write_file_durably(directory / "state", "second").value();
  EXPECT_EQ(read_file(directory / "state").value(), "second");
  EXPECT_THAT(names_in(directory.path()), ElementsAre("state"));
}

TEST(WriteFileDurably, GivesExactlyTheModeWhateverTheUmask) {
  const TemporaryDirectory directory;
  const mode_t previous = ::umask(077);
  write_file_durably(directory / "public", "x").value();
  write_file_durably(directory / "secret", "x", 0600).value();
  ::umask(previous);
  EXPECT_EQ(mode_of(directory / "public"), 0644u);
  EXPECT_EQ(mode_of(directory / "secret"), 0600u);
}

TEST(WriteFileDurably, JoinsPieces) {
  const TemporaryDirectory directory;
  const std::string first = "one ", third = "three";
  const std::vector<std::span<const std::byte>> pieces{
      std::as_bytes(std::span(first)), {}, std::as_bytes(std::span(third))};
  write_file_durably(directory / "state", pieces).value();
  EXPECT_EQ(read_file(directory / "state").value(), "one three");
}

TEST(WriteFileDurably, WritesToTheWorkingDirectory) {
  const TemporaryDirectory directory;
  const auto previous = std::filesystem::current_path();
  std::filesystem::current_path(directory.path());
  const Status written = write_file_durably("plain-name", "here");
  std::filesystem::current_path(previous);
  EXPECT_TRUE(written.ok());
  EXPECT_EQ(read_file(directory / "plain-name").value(), "here");
}

TEST(WriteFileDurably, KeepsTheOldContentAndNoPartialFileWhenTheWriteFails) {
  const TemporaryDirectory directory;
  write_file_durably(directory / "state", "old").value();
  {
    const FileSizeLimit limit(100'000);
    const Status written = write_file_durably(directory / "state", std::string(1'000'000, 'n'));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, Errc::io_error);
    EXPECT_THAT(written.error().message, HasSubstr((directory / "state").string()));
  }
  EXPECT_EQ(read_file(directory / "state").value(), "old");
  EXPECT_THAT(names_in(directory.path()), ElementsAre("state"));
}

TEST(WriteFileDurably, LeavesNoPartialFileWhenTheNameIsADirectory) {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "state");
  EXPECT_FALSE(write_file_durably(directory / "state", "new"));
  EXPECT_THAT(names_in(directory.path()), ElementsAre("state"));
}

TEST(WriteFileDurably, NamesADirectoryThatIsNotThere) {
  const TemporaryDirectory directory;
  const Status written = write_file_durably(directory / "missing/state", "new");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, Errc::not_found);
  EXPECT_THAT(written.error().message, HasSubstr("missing/state"));
}

TEST(WriteAll, ReportsAFullDisk) {
  const FileDescriptor full(::open("/dev/full", O_WRONLY));
  ASSERT_TRUE(full.valid());
  const std::string text = "some bytes";
  const Status written = write_all(full.get(), std::as_bytes(std::span(text)), "cannot write the ledger");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, Errc::no_space);
  EXPECT_THAT(written.error().message, HasSubstr("cannot write the ledger"));
}

TEST(WriteAll, GoesOnAfterShortWrites) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const FileDescriptor in(ends[0]);
  FileDescriptor out(ends[1]);
  const std::string text(3'000'000, 'p');  // many times what a pipe holds
  const pid_t child = ::fork();
  if (child == 0) {
    _exit(write_all(out.get(), std::as_bytes(std::span(text)), "pipe").ok() ? 0 : 1);
  }
  out = FileDescriptor();
  std::size_t received = 0;
  char buffer[5000];
  for (ssize_t count; (count = ::read(in.get(), buffer, sizeof buffer)) > 0;) received += count;
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(received, text.size());
}

TEST(FsyncFile, ReportsADescriptorThatCannotBeFlushed) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const FileDescriptor in(ends[0]), out(ends[1]);
  EXPECT_EQ(fsync_file(out.get(), "pipe").error().code, Errc::io_error);
}

TEST(MakeDirectories, MakesParentsAndAcceptsWhatExists) {
  const TemporaryDirectory directory;
  make_directories(directory / "a/b/c/", 0700).value();
  make_directories(directory / "a/b/c", 0755).value();
  EXPECT_EQ(mode_of(directory / "a"), 0700u);
  EXPECT_EQ(mode_of(directory / "a/b/c"), 0700u);
}

TEST(MakeDirectories, NamesTheFileThatIsInTheWay) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "x";
  const Status made = make_directories(directory / "file/below");
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr((directory / "file").string() + "': Not a directory"));
}

TEST(FileLock, RefusesASecondOwnerAndNamesTheFirst) {
  const TemporaryDirectory directory;
  const FileLock lock = FileLock::acquire(directory / "lock").value();
  const auto second = FileLock::acquire(directory / "lock");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::unavailable);
  EXPECT_THAT(second.error().message, HasSubstr("(process " + std::to_string(::getpid()) + ")"));
}

TEST(FileLock, IsFreeAfterItsOwnerLetGo) {
  const TemporaryDirectory directory;
  { const FileLock lock = FileLock::acquire(directory / "lock").value(); }
  EXPECT_TRUE(FileLock::acquire(directory / "lock").ok());
}

TEST(FileLock, IsFreeAfterItsOwnerWasKilled) {
  const TemporaryDirectory directory;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const FileDescriptor in(ends[0]);
  FileDescriptor out(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = FileLock::acquire(directory / "lock");
    const char answer = lock ? 'y' : 'n';
    if (::write(out.get(), &answer, 1) != 1) _exit(1);
    while (true) ::pause();
  }
  char answer = 0;
  ASSERT_EQ(::read(in.get(), &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  const auto while_held = FileLock::acquire(directory / "lock");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ASSERT_FALSE(while_held);
  EXPECT_THAT(while_held.error().message, HasSubstr("(process " + std::to_string(child) + ")"));
  EXPECT_TRUE(FileLock::acquire(directory / "lock").ok());
}

}  // namespace
}  // namespace trib
