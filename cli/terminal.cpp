#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace trib::cli {
namespace {

// Columns that `text` takes: its code points, without escape sequences. All our text is single-width.
std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0x1b) {
      while (i < text.size() && text[i] != 'm') ++i;
    } else if ((byte & 0xC0) != 0x80) {
      ++width;
    }
  }
  return width;
}

// The first `columns` columns of `text`.
std::string clip_to_width(std::string_view text, std::size_t columns) {
  std::string out;
  std::size_t width = 0;
  bool styled = false;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0x1b) {
      const std::size_t end = text.find('m', i);
      if (end == std::string_view::npos) break;
      out.append(text.substr(i, end - i + 1));
      styled = true;
      i = end + 1;
      continue;
    }
    std::size_t length = 1;
    while (i + length < text.size() && (static_cast<unsigned char>(text[i + length]) & 0xC0) == 0x80) ++length;
    if (width == columns) break;
    out.append(text.substr(i, length));
    ++width;
    i += length;
  }
  if (styled) out += "\033[0m";
  return out;
}

bool utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (const char* value = std::getenv(name); value && *value)
      return std::strstr(value, "UTF-8") || std::strstr(value, "utf8") || std::strstr(value, "utf-8");
  }
  return false;
}

bool styled_output() {
  return is_terminal(stdout) && !std::getenv("NO_COLOR");
}

std::string format(const char* pattern, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, pattern, value);
  return buffer;
}

}  // namespace

void Table::add_row(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::to_string(std::string_view indent) const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t width = display_width(columns_[c].title);
    for (const auto& row : rows_) width = std::max(width, display_width(row[c]));
    widths.push_back(width);
  }
  std::string out;
  const auto add_line = [&](const auto& cell) {
    std::string line(indent);
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::string text = cell(c);
      const std::string padding(widths[c] - display_width(text), ' ');
      if (c > 0) line += "  ";
      line += columns_[c].align == Align::right ? padding + text : text + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  add_line([&](std::size_t c) { return columns_[c].title; });
  add_line([&](std::size_t c) { return std::string(widths[c], '-'); });
  for (const auto& row : rows_) add_line([&](std::size_t c) { return row[c]; });
  return out;
}

std::string bar(double fraction, int width) {
  static const bool utf8 = utf8_locale();
  fraction = std::isfinite(fraction) ? std::clamp(fraction, 0.0, 1.0) : 1.0;
  const int filled = static_cast<int>(std::lround(fraction * width));
  std::string out;
  for (int i = 0; i < width; ++i) out += i < filled ? (utf8 ? "█" : "#") : (utf8 ? "░" : ".");
  return out;
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  // 999.95 and more is printed as 1000.0.
  while (bytes >= (unit == 0 ? 1000.0 : 999.95) && unit + 1 < std::size(units)) {
    bytes /= 1000.0;
    ++unit;
  }
  return format(unit == 0 ? "%.0f " : "%.1f ", bytes) + units[unit];
}

std::string format_duration(double seconds) {
  if (seconds < 59.95) return format("%.1f s", seconds);  // 59.95 and more is printed as 60.0
  const auto total = static_cast<long>(std::lround(seconds));
  char buffer[64];
  if (total < 3600) {
    std::snprintf(buffer, sizeof buffer, "%ld min %02ld s", total / 60, total % 60);
  } else {
    std::snprintf(buffer, sizeof buffer, "%ld h %02ld min", total / 3600, total % 3600 / 60);
  }
  return buffer;
}

std::string format_percent(double fraction) {
  return format("%.1f %%", 100.0 * fraction);
}

std::string format_fixed(double value, int digits) {
  if (std::isinf(value)) return value > 0 ? "unbounded" : "-unbounded";
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

bool is_terminal(std::FILE* stream) {
  return isatty(fileno(stream)) != 0;
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 100;
}

std::string bold(std::string_view text) {
  return styled_output() ? "\033[1m" + std::string(text) + "\033[0m" : std::string(text);
}

std::string dim(std::string_view text) {
  return styled_output() ? "\033[2m" + std::string(text) + "\033[0m" : std::string(text);
}

LiveBlock::~LiveBlock() {
  finish();
}

void LiveBlock::erase() {
  if (!shown_.empty()) std::fprintf(stream_, "\033[%zuA\033[J", shown_.size());
}

void LiveBlock::update(const std::vector<std::string>& lines) {
  if (!live_) return;
  erase();
  shown_ = lines;
  const auto width = static_cast<std::size_t>(terminal_width(stream_));
  for (auto& line : shown_) {
    line = clip_to_width(line, width);
    std::fprintf(stream_, "%s\n", line.c_str());
  }
  std::fflush(stream_);
}

void LiveBlock::log(std::string_view line) {
  if (!live_) {
    std::fprintf(stream_, "%.*s\n", static_cast<int>(line.size()), line.data());
    std::fflush(stream_);
    return;
  }
  erase();
  std::fprintf(stream_, "%.*s\n", static_cast<int>(line.size()), line.data());
  for (const auto& kept : shown_) std::fprintf(stream_, "%s\n", kept.c_str());
  std::fflush(stream_);
}

void LiveBlock::finish() {
  shown_.clear();
  std::fflush(stream_);
}

}  // namespace trib::cli
