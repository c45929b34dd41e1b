// What the terminal shows: tables, bars, and a block of lines that is redrawn in place. Plain lines where the output is
// not a terminal.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace trib::cli {

enum class Align { left, right };

// A table of text cells with aligned columns and a rule under the header.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add_row(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  std::string to_string(std::string_view indent = "") const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "███████░░░ 70 %"-like bar of `width` cells; plain ASCII where the locale is not UTF-8.
std::string bar(double fraction, int width);

std::string format_bytes(double bytes);       // "104.3 kB", decimal units
std::string format_duration(double seconds);  // "0.8 s", "1 min 12 s", "2 h 05 min"
std::string format_percent(double fraction);  // "84.3 %"
std::string format_fixed(double value, int digits);

bool is_terminal(std::FILE* stream);
int terminal_width(std::FILE* stream);  // columns; 100 where unknown

// Bold and dim text where the output is a terminal and NO_COLOR is not set.
std::string bold(std::string_view text);
std::string dim(std::string_view text);

// Lines that are replaced by the next update on a terminal. Elsewhere update() prints nothing and only log() appears.
class LiveBlock {
 public:
  explicit LiveBlock(std::FILE* stream) : stream_(stream), live_(is_terminal(stream)) {}
  ~LiveBlock();
  bool live() const { return live_; }
  void update(const std::vector<std::string>& lines);
  // A line that stays, above the block.
  void log(std::string_view line);
  // Ends the block: what is shown stays on the screen.
  void finish();

 private:
  void erase();
  std::FILE* stream_;
  bool live_;
  std::vector<std::string> shown_;
};

}  // namespace trib::cli
