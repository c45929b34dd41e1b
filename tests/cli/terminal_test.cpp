#include "cli/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <limits>

namespace trib::cli {
namespace {

// bar() reads the locale once, whichever test comes first.
[[maybe_unused]] const int ascii_locale = ::setenv("LC_ALL", "C", 1);

std::string contents(std::FILE* file) {
  std::rewind(file);
  std::string text;
  char buffer[256];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
  return text;
}

// The program's side of a terminal, and what arrives on the screen's side.
class PseudoTerminal {
 public:
  PseudoTerminal() : screen_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    if (screen_ < 0 || ::grantpt(screen_) != 0 || ::unlockpt(screen_) != 0) return;
    const char* const name = ::ptsname(screen_);
    if (name != nullptr) program_ = std::fopen(name, "r+");
  }
  ~PseudoTerminal() {
    if (program_ != nullptr) std::fclose(program_);
    if (screen_ >= 0) ::close(screen_);
  }
  bool is_open() const { return program_ != nullptr; }
  std::FILE* program() { return program_; }
  // What has arrived once it ends with `end`; the kernel hands it over in pieces, in its own time.
  std::string take_until(const std::string& end) {
    std::string text;
    pollfd readable{screen_, POLLIN, 0};
    while (!text.ends_with(end) && ::poll(&readable, 1, 5'000) > 0) {
      char buffer[4096];
      const ssize_t n = ::read(screen_, buffer, sizeof buffer);
      if (n <= 0) break;
      text.append(buffer, static_cast<std::size_t>(n));
    }
    return text;
  }

 private:
  int screen_;
  std::FILE* program_ = nullptr;
};

TEST(Table, AlignsColumnsUnderARule) {
  Table table({{"site"}, {"rounds", Align::right}});
  table.add_row({"north", "9"});
  table.add_row({"a", "120"});
  EXPECT_EQ(table.to_string(),
            "site   rounds\n"
            "-----  ------\n"
            "north       9\n"
            "a         120\n");
}

TEST(Table, CountsCharactersAndNotBytes) {
  Table table({{"name"}, {"n", Align::right}});
  table.add_row({"Zürich", "1"});
  table.add_row({"\033[1mKöln\033[0m", "2"});
  EXPECT_EQ(table.to_string(),
            "name    n\n"
            "------  -\n"
            "Zürich  1\n"
            "\033[1mKöln\033[0m    2\n");
}

TEST(Table, FillsMissingCellsAndIndentsEveryLine) {
  Table table({{"a"}, {"b"}});
  table.add_row({"x"});
  EXPECT_EQ(table.to_string("  "), "  a  b\n  -  -\n  x\n");
}

TEST(Bar, FillsInProportionAndStaysWithinItsWidth) {
  EXPECT_EQ(bar(0.0, 4), "....");
  EXPECT_EQ(bar(0.5, 4), "##..");
  EXPECT_EQ(bar(1.0, 4), "####");
  EXPECT_EQ(bar(7.0, 4), "####");
  EXPECT_EQ(bar(-1.0, 4), "....");
}

TEST(Bar, IsFullForAnUnboundedFraction) {
  EXPECT_EQ(bar(std::numeric_limits<double>::infinity(), 3), "###");
}

TEST(Formats, BytesInDecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(104'300), "104.3 kB");
  EXPECT_EQ(format_bytes(2.5e12), "2.5 TB");
  EXPECT_EQ(format_bytes(7e15), "7000.0 TB");
}

TEST(Formats, BytesThatRoundUpToTheNextUnitTakeIt) {
  EXPECT_EQ(format_bytes(999'949), "999.9 kB");
  EXPECT_EQ(format_bytes(999'960), "1.0 MB");
}

TEST(Formats, DurationsInTheUnitsPeopleUse) {
  EXPECT_EQ(format_duration(0.84), "0.8 s");
  EXPECT_EQ(format_duration(59.94), "59.9 s");
  EXPECT_EQ(format_duration(72.4), "1 min 12 s");
  EXPECT_EQ(format_duration(3600.0), "1 h 00 min");
  EXPECT_EQ(format_duration(7500.0), "2 h 05 min");
}

TEST(Formats, DurationsThatRoundUpToTheNextUnitTakeIt) {
  EXPECT_EQ(format_duration(59.97), "1 min 00 s");
  EXPECT_EQ(format_duration(3599.7), "1 h 00 min");
}

TEST(Formats, PercentagesAndFixedDigits) {
  EXPECT_EQ(format_percent(0.843), "84.3 %");
  EXPECT_EQ(format_fixed(2.0 / 3.0, 3), "0.667");
  EXPECT_EQ(format_fixed(std::numeric_limits<double>::infinity(), 2), "unbounded");
}

TEST(LiveBlock, PrintsOnlyLogLinesWhereTheOutputIsNotATerminal) {
  std::FILE* file = std::tmpfile();
  {
    LiveBlock block(file);
    EXPECT_FALSE(block.live());
    block.update({"a bar that moves"});
    block.log("round 1 done");
    block.update({"a bar that moves"});
    block.finish();
  }
  EXPECT_EQ(contents(file), "round 1 done\n");
  std::fclose(file);
}

TEST(LiveBlock, RedrawsItsLinesInPlaceOnATerminal) {
  PseudoTerminal terminal;
  if (!terminal.is_open()) GTEST_SKIP() << "this machine has no pseudo-terminals (is /dev/pts mounted?)";
  LiveBlock block(terminal.program());
  EXPECT_TRUE(block.live());
  block.update({"one", "two"});
  EXPECT_EQ(terminal.take_until("two\r\n"), "one\r\ntwo\r\n");
  block.update({"three"});
  EXPECT_EQ(terminal.take_until("three\r\n"), "\033[2A\033[Jthree\r\n");
  block.log("kept");
  EXPECT_EQ(terminal.take_until("three\r\n"), "\033[1A\033[Jkept\r\nthree\r\n");
}

TEST(LiveBlock, LeavesItsLastLinesOnTheScreenWhenItEnds) {
  PseudoTerminal terminal;
  if (!terminal.is_open()) GTEST_SKIP() << "this machine has no pseudo-terminals (is /dev/pts mounted?)";
  LiveBlock block(terminal.program());
  block.update({"done"});
  block.finish();
  block.update({"another block"});
  EXPECT_EQ(terminal.take_until("another block\r\n"), "done\r\nanother block\r\n");
}

TEST(LiveBlock, CutsLinesAtTheTerminalsWidth) {
  PseudoTerminal terminal;  // says nothing of its size: 100 columns
  if (!terminal.is_open()) GTEST_SKIP() << "this machine has no pseudo-terminals (is /dev/pts mounted?)";
  LiveBlock block(terminal.program());
  block.update({std::string(150, 'x')});
  EXPECT_EQ(terminal.take_until("\r\n"), std::string(100, 'x') + "\r\n");
}

}  // namespace
}  // namespace trib::cli
