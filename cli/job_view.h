// A job's report (server/job_report.h) as lines for a terminal: the live block, and the log where nothing is redrawn.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace trib::cli {

std::string text_of(const boost::json::object& object, std::string_view key);      // "" if absent
std::int64_t integer_of(const boost::json::object& object, std::string_view key);  // 0 if absent
double number_of(const boost::json::object& object, std::string_view key);         // NaN if absent or null
// The accuracy of the running average if there is one, else of the last evaluated round; "-" before the first.
std::string accuracy_text(const boost::json::object& report_or_summary);

// The state of a job in a few lines: rounds, who is waited for, a line a site with its step and its budget.
std::vector<std::string> job_lines(const boost::json::value& report);

// What has become final since the last report: evaluated rounds and how the job ended, one line each.
class JobProgressLog {
 public:
  std::vector<std::string> new_lines(const boost::json::value& report);

 private:
  std::size_t evaluations_seen_ = 0;
  bool ended_ = false;
};

}  // namespace trib::cli
