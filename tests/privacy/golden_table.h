// The reference tables in tests/golden/dp, row by row.
#pragma once

#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace trib::privacy {

using Row = std::map<std::string, std::string>;

inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

inline std::vector<Row> read_table(const std::string& name) {
  std::ifstream file(std::string(TRIBUTARY_SOURCE_DIR) + "/tests/golden/dp/" + name);
  std::string line;
  std::getline(file, line);
  const std::vector<std::string> columns = split(line, ',');
  std::vector<Row> rows;
  while (std::getline(file, line)) {
    const std::vector<std::string> cells = split(line, ',');
    Row row;
    for (std::size_t i = 0; i < cells.size(); ++i) row[columns[i]] = cells[i];
    rows.push_back(row);
  }
  return rows;
}

inline double number(const Row& row, const std::string& column) {
  return std::stod(row.at(column));
}

// Names a row's test: INSTANTIATE_TEST_SUITE_P's last argument.
struct RowName {
  template <typename Info>
  std::string operator()(const Info& info) const {
    return "Row" + info.param.at("id");
  }
};

// A row's (q, sigma, steps), or each of them in "q:sigma:steps|…".
struct TablePhase {
  double sample_rate = 0.0, noise_multiplier = 0.0;
  std::int64_t steps = 0;
};

inline std::vector<TablePhase> phases_of(const Row& row) {
  if (row.count("phases_q:sigma:steps") == 0) {
    return {{number(row, "q"), number(row, "sigma"), static_cast<std::int64_t>(number(row, "steps"))}};
  }
  std::vector<TablePhase> phases;
  for (const std::string& phase : split(row.at("phases_q:sigma:steps"), '|')) {
    const std::vector<std::string> parts = split(phase, ':');
    phases.push_back({std::stod(parts.at(0)), std::stod(parts.at(1)), std::stoll(parts.at(2))});
  }
  return phases;
}

}  // namespace trib::privacy
