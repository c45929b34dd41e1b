#include "tasks/data/delimited.h"

#include <spdlog/fmt/fmt.h>

namespace trib::tasks::data {

bool DelimitedReader::at_line_end() const {
  return at_end() || text_[position_] == '\n' || text_.substr(position_, 2) == "\r\n" ||
         (text_[position_] == '\r' && position_ + 1 == text_.size());
}

void DelimitedReader::skip_line_end() {
  if (!at_end() && text_[position_] == '\r') ++position_;
  if (!at_end() && text_[position_] == '\n') ++position_;
  ++line_;
}

Status DelimitedReader::read_quoted(std::string& field) {
  const std::int64_t opening_line = line_;
  ++position_;
  while (true) {
    const std::size_t quote = text_.find('"', position_);
    if (quote == std::string_view::npos) {
      return Error{Errc::invalid_argument,
                   fmt::format("{}:{}: a quoted field starts here and has no closing quote", name_, opening_line)};
    }
    for (const char c : text_.substr(position_, quote - position_)) line_ += c == '\n';
    field.append(text_, position_, quote - position_);
    position_ = quote + 1;
    if (at_end() || text_[position_] != '"') break;
    field += '"';
    ++position_;
  }
  if (at_line_end() || text_[position_] == dialect_.separator) return {};
  return Error{Errc::invalid_argument,
               fmt::format("{}:{}: a quoted field goes on after its closing quote; a quote inside it must be doubled",
                           name_, line_)};
}

void DelimitedReader::read_plain(std::string& field) {
  const std::size_t begin = position_;
  while (!at_line_end() && text_[position_] != dialect_.separator) ++position_;
  field.assign(text_, begin, position_ - begin);
}

Result<bool> DelimitedReader::next(std::vector<std::string>& fields) {
  while (!at_end() && at_line_end()) skip_line_end();
  fields.clear();
  if (at_end()) return false;
  record_line_ = line_;
  while (true) {
    std::string& field = fields.emplace_back();
    if (dialect_.quoting && !at_end() && text_[position_] == '"') {
      TRIB_TRY(read_quoted(field));
    } else {
      read_plain(field);
    }
    if (at_line_end()) break;
    ++position_;  // the separator
  }
  skip_line_end();
  return true;
}

std::string csv_field(std::string_view field) {
  if (!field.empty() && field.find_first_of("\",\r\n") == std::string_view::npos) return std::string(field);
  std::string quoted = "\"";
  for (const char c : field) {
    quoted += c;
    if (c == '"') quoted += '"';
  }
  return quoted + '"';
}

}  // namespace trib::tasks::data
